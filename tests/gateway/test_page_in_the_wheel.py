from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gateway.page.files import FOLDER, ROOT, page_files

TREE = Path(__file__).parents[2]
ASK = """
import json
from setuptools.dist import Distribution
found = Distribution()
found.parse_config_files()
found.include_package_data = False  # by our list of files alone, not by what a version control system knows
command = found.get_command_obj("build_py")
command.ensure_finalized()
print(json.dumps([name for package, _, _, names in command.data_files if package == "gateway.page" for name in names]))
"""


def test_the_wheel_has_every_file_of_the_page() -> None:
    """What setuptools would copy, without building a wheel."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK], cwd=TREE, capture_output=True, text=True, check=True
    )
    copied = {Path(name).name for name in json.loads(done.stdout.splitlines()[-1])}
    served = {"index.html" if path == ROOT else path.removeprefix(FOLDER) for path in page_files()}
    assert copied == served == {file.name for file in (TREE / "gateway" / "page" / "static").iterdir()}
