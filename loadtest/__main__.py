"""`python -m loadtest`."""

import sys

if __name__ == "__main__":
    try:
        from loadtest.cli import main
    except ModuleNotFoundError as exc:
        sys.exit(f"{exc}; the load generator's own packages come with: pip install 'penstock[loadtest]'")
    main(prog_name="python -m loadtest")
