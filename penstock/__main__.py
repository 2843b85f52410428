"""`python -m penstock`."""

from penstock.entry import main

main()
