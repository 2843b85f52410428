"""The examples of docs/producers.md, by name: each is a code block whose first line says language and name."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "producers.md"
_BLOCK = re.compile(r"^```(\w+) ([\w-]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMES = re.compile(r"\bpenstock(?=\.(?:infer|batch|results|dead|models)\b|:result:)")


@dataclasses.dataclass(frozen=True)
class Example:
    """A code block of the page."""

    language: str
    name: str
    text: str


def examples(page: Path = PAGE) -> dict[str, Example]:
    """All examples of a page, by name."""
    return {name: Example(language, name, text) for language, name, text in _BLOCK.findall(page.read_text())}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the fleet of a test is, instead of where the page says."""

    kafka: str
    redis_host: str
    redis_port: int
    prefix: str

    def put_into(self, text: str) -> str:
        """The example with this fleet's addresses and names."""
        text = text.replace("localhost:9092", self.kafka)
        text = text.replace("-h localhost -p 6379", f"-h {self.redis_host} -p {self.redis_port}")
        return _NAMES.sub(self.prefix, text)
