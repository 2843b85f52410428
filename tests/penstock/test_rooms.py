"""The map of the code: every room says what it decides, purity is as marked, and the pages that point into it are right."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import httpx
import pytest

from gateway.settings import GatewaySettings
from penstock.one_process import OneProcess
from protocol.transport.settings import TransportSettings
from tests.workers.fleet import IDENTITY, write_model
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
PACKAGES = ("protocol", "gateway", "workers", "penstock")
MARK = re.compile(r"(^|[.:!]\s+)Pure\b")
ROW = re.compile(r"^\| (?P<what>[^|]+) \| `(?P<file>[\w/]+\.\w+)` \| `(?P<name>[\w.]+)` \|", re.MULTILINE)


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, ast.parse(file.read_text())


def contracts() -> list[dict[str, object]]:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert isinstance(found, list)
    return found


def test_what_is_held_pure_is_what_says_that_it_is() -> None:
    marked = {name for name, tree in modules() if MARK.search(ast.get_docstring(tree) or "")}
    held = next(
        contract for contract in contracts() if contract["name"] == "What decides neither waits nor reads a clock"
    )
    assert held["source_modules"] == sorted(marked)


def test_every_room_says_what_is_decided_in_it() -> None:
    rooms = [
        folder for package in PACKAGES for folder in (ROOT / package).rglob("*") if (folder / "__init__.py").is_file()
    ]
    silent = []
    for room in rooms:
        said = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
        if len(said) < 60 and not (room / "README.md").is_file():
            silent.append(str(room.relative_to(ROOT)))
    assert silent == []


def defined(file: Path) -> set[str]:
    """Functions, classes and constants of a file, methods as `Class.method`; of a script in Lua its functions."""
    if file.suffix == ".lua":
        return set(re.findall(r"^local function (\w+)", file.read_text(), re.MULTILINE))
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
        if isinstance(node, ast.ClassDef):
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
            names.update(f"{node.name}.{method.name}" for method in node.body if isinstance(method, kinds))
    return names


def pointed_at(page: str, heading: str) -> list[re.Match[str]]:
    text = (ROOT / page).read_text()
    section = text[text.index(heading) :].partition("\n## ")[0]
    return list(ROW.finditer(section))


@pytest.mark.parametrize(
    ("page", "heading", "least", "most"),
    [("README.md", "# One request", 8, 12), ("docs/architecture.md", "# Where is it decided?", 20, 150)],
)
def test_the_pages_point_at_what_is_there(page: str, heading: str, least: int, most: int) -> None:
    rows = pointed_at(page, heading)
    wrong = [
        row[0] for row in rows if not (ROOT / row["file"]).is_file() or row["name"] not in defined(ROOT / row["file"])
    ]
    assert wrong == []
    assert least <= len({row["what"] for row in rows}) <= most


def room_of(file: str) -> str:
    """A folder of a package, or a file beside the folders."""
    return "/".join(Path(file).relative_to(ROOT).parts[:2])


async def test_one_request_enters_at_most_30_rooms(tmp_path: Path) -> None:
    write_model(tmp_path, "m", IDENTITY)
    fleet = OneProcess(
        GatewaySettings(host="127.0.0.1", http_port=0, metrics_port=0),
        WorkerSettings(model_repository=(tmp_path,)),
        TransportSettings(),
    )
    entered: set[str] = set()
    counted: list[list[str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and any(file.startswith(str(ROOT / package)) for package in PACKAGES):
            entered.add(room_of(file))

    await fleet.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{fleet.gateway.port}") as client:
            for _ in range(6):
                entered.clear()
                sys.setprofile(note)
                body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
                answer = await client.post("/v2/models/m/infer", json=body)
                sys.setprofile(None)
                assert answer.status_code == 200, answer.text
                counted.append(sorted(entered))
    finally:
        sys.setprofile(None)
        await fleet.stop()
    fewest = min(counted, key=len)  # in the others a heartbeat or a sweep ran meanwhile
    assert 15 <= len(fewest) <= 30, fewest
