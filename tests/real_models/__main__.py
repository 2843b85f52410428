"""Runs every case and writes docs/real-models.md."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.real_models.packages import installed
from tests.real_models.page import PAGE, write
from tests.real_models.running import run_all

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write(run_all(installed(), Path(folder)))
    print(f"wrote {PAGE}")
