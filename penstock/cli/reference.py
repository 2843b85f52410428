"""Generates docs/configuration.md from the commands: `python -m penstock.cli.reference`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import click

from penstock.cli import COMMANDS
from protocol.model_config.fields import FIELDS

_HEAD = """\
# Configuration

Written by `python -m penstock.cli.reference`; a test compares. Flags beat environment variables, which beat defaults.
"""

_PARAMETERS = """\
## Parameters of a model

`parameters { key: "..." value { string_value: "..." } }` in config.pbtxt goes to the model's backend. Read for every backend:

| key | default | meaning |
| --- | --- | --- |
| `instance_isolation` | `process` for python, pytorch and GPUs, else `thread` | Where an instance runs: see workers/README.md. |
| `max_execution_ms` | 60,000 or more: 20 predictions, or the deadline | The process of a batch that runs longer is killed. |
| `refuse_nan` | `false` | `true`: a request whose outputs contain NaN is answered with an error. |
"""

_SIGNALS = """\
## Signals

| signal | `serve`, `worker` | `gateway` |
| --- | --- | --- |
| SIGTERM | requests in flight are answered, for at most the drain grace; a second signal stops at once | the same |
| SIGINT (Ctrl-C) | requests in flight get one second; the process ends within two | the same limit of two seconds |
| either, before it is ready | the process ends within two seconds | SIGINT: at once |

The exit code is 0 after an orderly stop, and 128 plus the signal's number if work was left unfinished (130 for SIGINT).
"""


_EXITS = """\
## Exit codes

| code | meaning |
| --- | --- |
| 0 | Done. |
| 1 | A check found something: a refused model, a problem, a broken promise. Or a bug, with a traceback. |
| 2 | Wrong usage: an unknown flag, a value of the wrong type, a missing file. |
| 3 | Wrong input or settings. |
| 4 | Not found, or no longer available. |
| 5 | The API key is missing or wrong. |
| 6 | Not supported. |
| 7 | Unreachable or busy: try again later. |
| 8 | Too late. |
| 9 | Cancelled. |
| 10 | The model failed. |
| 11 | An internal error. |
| 12 | `penstock verify`: nothing was delivered twice, so the run proves nothing. |
| 130 | Ctrl-C. |
| 141 | The reader of the output is gone, as in `penstock models \\| head -1`. |
"""


def page() -> str:
    """The whole page, as Markdown."""
    sections = [_HEAD]
    for name, summary in COMMANDS.items():
        command = importlib.import_module(f"penstock.cli.{name}").command
        sections += _command(name, summary, command)
    sections.append("## config.pbtxt\n\n" + "\n".join(_fields()) + "\n")
    sections += [_PARAMETERS, _SIGNALS, _EXITS]
    return "\n".join(sections)


def _command(name: str, summary: str, command: click.Command) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield f"## penstock {name}\n\n{summary}\n\n" + "\n".join(_flags(command)) + "\n"
        return
    yield f"## penstock {name}\n\n{summary}\n"
    for part, inner in command.commands.items():
        says = (inner.help or "").partition("\n")[0]
        yield f"### penstock {name} {part}\n\n{_cell(says)}\n\n" + "\n".join(_flags(inner)) + "\n"


def _flags(command: click.Command) -> Iterator[str]:
    yield "| flag | environment variable | default | meaning |\n| --- | --- | --- | --- |"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
            variable = f"`{parameter.envvar}`" if parameter.envvar else ""
            yield f"| {names} | {variable} | {_default(parameter)} | {_cell(parameter.help or '')} |"
        else:
            yield f"| `{parameter.human_readable_name}` | | | argument |"


def _default(option: click.Option) -> str:
    value: Any = option.default
    if value is None or value == "" or value == () or repr(value).startswith("Sentinel") or "UNSET" in repr(value):
        return ""
    return f"`{value}`"


def _fields() -> Iterator[str]:
    yield "Triton's fields. A field that is not supported is refused when the model is loaded, with the reason; none is ignored.\n"
    yield "| field | | what this version does |\n| --- | --- | --- |"
    for name, field in FIELDS.items():
        yield f"| `{name}` | {field.support.value} | {_cell(field.why)} |"


def _cell(text: str) -> str:
    return inspect.cleandoc(text).replace("\n", " ").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
