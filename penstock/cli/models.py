"""`penstock models`: lists the models of a fleet, loads and unloads them."""

from __future__ import annotations

import base64
import datetime as dt
import re
from pathlib import Path
from typing import Any, Final

import click
import orjson

from penstock.cli.files import FILE
from penstock.cli.model_aliases import alias
from penstock.cli.options import Decorator, api_key_option, insecure_option, options, seconds, unverified, url_option
from penstock.client import Client
from protocol.errors import Code, FleetError, InvalidArgument, NotFound, quoted

_where: Decorator = options(url_option, api_key_option)
_json: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|d)?\Z")
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click alone
    """Seconds, or a number with s, m, h or d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds."""
        found = _DURATION.match(str(value))
        if found is None:
            self.fail(f"{quoted(value)} is not a duration such as 90, 90s, 15m, 8h or 7d", param, ctx)
        return float(found[1]) * _UNITS[found[2] or ""]


class Replacement(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """`PATH=FILE`."""

    name = "path=file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        """The path in the model's folder, and the file."""
        path, equals, file = str(value).partition("=")
        if not equals or not path or not Path(file).is_file():
            self.fail(
                f"{quoted(value)} must be PATH=FILE with an existing file, such as 1/model.onnx=new.onnx", param, ctx
            )
        return path, Path(file)


@click.group(invoke_without_command=True)
@_where
@insecure_option
@_json
@click.pass_context
def command(context: click.Context, url: str, api_key: str, insecure: bool, as_json: bool) -> None:
    """List, load and unload the models of a fleet. Without a command: list them.

    Models are loaded and unloaded if the workers (or penstock serve) run with --model-control-mode explicit.

    \b
        penstock models --url http://localhost:8000
        penstock models load digits
        penstock models status digits
    """
    if context.invoked_subcommand is None:
        _list(url, api_key, insecure, as_json)


command.add_command(alias)


@command.command()
@_where
@insecure_option
@_json
def index(url: str, api_key: str, insecure: bool, as_json: bool) -> None:
    """List the models that a gateway knows: name, version, state, and why one is not available."""
    _list(url, api_key, insecure, as_json)


@command.command()
@click.argument("model")
@options(
    click.option(
        "--config",
        "config",
        type=FILE,
        help="JSON file of a configuration that replaces config.pbtxt until the model is unloaded.",
    ),
    click.option(
        "--file",
        "files",
        multiple=True,
        type=Replacement(),
        metavar="PATH=FILE",
        help="With --config: a file that makes the model, such as 1/model.onnx=new.onnx; may be repeated.",
    ),
    click.option(
        "--replicas",
        type=click.IntRange(0),
        default=None,
        help="Serve it on so many workers; 0: on all that can. [as before; 0]",
    ),
    click.option(
        "--lease",
        type=Duration(),
        default=None,
        help="Unload it after this time unless the lease is renewed; 0: never. [as before; never]",
    ),
    click.option(
        "--idle-after",
        type=Duration(),
        default=None,
        help="Evict it after this time without a request; the next one loads it again; 0: never. [as before; never]",
    ),
    click.option(
        "--digest",
        "digests",
        multiple=True,
        metavar="SHA256",
        help="Serve only versions with this digest (see status); may be repeated; '' allows any. [as before; any]",
    ),
    click.option("--timeout", type=float, callback=seconds, help="Seconds to wait. [as long as the gateway does]"),
    _where,
    _json,
)
def load(  # click passes flags by name
    model: str, config: Path | None, files: tuple[tuple[str, Path], ...], replicas: int | None, lease: float | None,
    idle_after: float | None, digests: tuple[str, ...], timeout: float | None, url: str, api_key: str, as_json: bool,
) -> None:  # fmt: skip
    """Load MODEL on every worker that should serve it, and wait until all are done.

    A version that serves continues to serve until its successor is ready. What a flag does not say stays as the last load said.

    \b
        penstock models load digits
        penstock models load digits --replicas 2 --lease 8h
        penstock models load digits --config config.json --file 1/model.onnx=new.onnx
    """
    parameters: dict[str, Any] = {
        name: value
        for name, value in (("replicas", replicas), ("lease_s", lease), ("idle_after_s", idle_after))
        if value is not None
    }
    if config is not None:
        parameters["config"] = config.read_text()
    if files and config is None:
        raise InvalidArgument(
            "--file needs --config: a JSON file, which may be {} if the configuration can be completed"
        )
    parameters |= {f"file:{path}": base64.b64encode(file.read_bytes()).decode() for path, file in files}
    if digests:
        parameters["digests"] = [digest for digest in digests if digest]
    _change(model, parameters, timeout, url, api_key, as_json)


@command.command()
@click.argument("model")
@_where
@_json
def unload(model: str, url: str, api_key: str, as_json: bool) -> None:
    """Unload MODEL everywhere. It stays unloaded, also after restarts, until it is loaded again."""
    with Client(url, api_key=api_key) as client:
        client.get(_path(model))  # unloading an unknown model changes nothing, and would be reported as done
        client.unload(model)
        if as_json:
            print(_dumped(client.get(_path(model))))
        else:
            print(f"{model} is unloaded")


@command.command()
@click.argument("model")
@_where
@_json
def pin(model: str, url: str, api_key: str, as_json: bool) -> None:
    """Keep MODEL loaded: no lease ends, and it is evicted neither for idleness nor for room. Loads it if it is not loaded."""
    _change(model, {"pinned": True}, None, url, api_key, as_json)


@command.command()
@click.argument("model")
@_where
@_json
def unpin(model: str, url: str, api_key: str, as_json: bool) -> None:
    """Undo pin: MODEL stays loaded, and may get a lease or be evicted."""
    _change(model, {"pinned": False}, None, url, api_key, as_json)


@command.command()
@click.argument("model")
@click.argument("duration", type=Duration())
@_where
@_json
def lease(model: str, duration: float, url: str, api_key: str, as_json: bool) -> None:
    """Load MODEL for DURATION from now, such as 15m or 8h, or renew its lease; 0 ends the lease and keeps the model.

    penstock models lease digits 8h
    """
    _change(model, {"lease_s": duration}, None, url, api_key, as_json)


@command.command()
@click.argument("model")
@_where
@_json
def status(model: str, url: str, api_key: str, as_json: bool) -> None:
    """Show what is desired of MODEL, and what each worker makes of it."""
    with Client(url, api_key=api_key) as client:
        found = client.get(_path(model))
    print(_dumped(found) if as_json else "\n".join([_desired(found), *_workers(found)]))


def _list(url: str, api_key: str, insecure: bool, as_json: bool) -> None:
    with Client(url, api_key=api_key, tls=unverified(url, insecure=insecure)) as client:
        entries = client.models()
    if as_json:
        print(_dumped(entries))
        return
    width = max([len(entry["name"]) for entry in entries], default=5)
    for entry in entries:
        version, state = entry.get("version", ""), entry.get("state", "not loaded")
        print(f"{entry['name']:{width}}  {version:>3}  {state:11}  {entry.get('reason', '')}".rstrip())
    if not entries:
        print("no models; a worker announces those of its --model-repository")


def _change(
    model: str, parameters: dict[str, Any], timeout: float | None, url: str, api_key: str, as_json: bool
) -> None:
    """Make a load call, and say what came of it."""
    with Client(url, api_key=api_key) as client:
        try:
            client.load(model, parameters, timeout)
        except FleetError as error:
            if error.code is not Code.INTERNAL or "failed to poll" not in error.message:
                raise
            raise NotFound(f"no worker's repository has this model: {error.message}") from None
        found = client.get(_path(model))
    print(_dumped(found) if as_json else _desired(found))


def _path(model: str) -> str:
    from urllib.parse import quote

    return f"/v2/repository/models/{quote(model, safe='')}/status"


def _desired(found: dict[str, Any]) -> str:
    """One line: whether the model is loaded, where, and until when."""
    desired, workers = found["desired"], found["workers"]
    serving = sorted(worker["worker"] for worker in workers if worker["state"] == "READY")
    where = f"on {', '.join(serving)}" if serving else "on no worker"
    if desired is None:
        return f"{found['model']} is served {where}, as the workers' own settings say"
    if not desired["loaded"]:
        return f"{found['model']} is unloaded, by {desired['by']} at {_moment(desired['at'])}"
    more = [f"lease until {_moment(desired['lease_until'])}"] if desired["lease_until"] else []
    more += ["pinned"] if desired["pinned"] else []
    more += [f"evicted after {desired['idle_after_s']:g} s without a request"] if desired["idle_after_s"] else []
    more += [f"{desired['replicas']} replica(s)"] if desired["replicas"] else []
    more += ["with a configuration of its load call"] if desired["config"] else []
    more += [f"{len(desired['digests'])} allowed digest(s)"] if desired["digests"] else []
    return f"{found['model']} is loaded {where}" + "".join(f"; {text}" for text in more)


def _workers(found: dict[str, Any]) -> list[str]:
    """A line per worker, and one per version that it has."""
    lines = []
    width = max([len(worker["worker"]) for worker in found["workers"]], default=0)
    desired = found["desired"]
    for worker in found["workers"]:
        behind = (
            desired is not None
            and worker["control_mode"] == "explicit"
            and worker["generation"] < desired["generation"]
        )
        note = worker["reason"] or ("it has not seen the last change yet" if behind else "")
        if desired is not None and worker["control_mode"] != "explicit":
            note = f"it follows its own settings (--model-control-mode {worker['control_mode'] or 'none'})"
        lines.append(f"  {worker['worker']:{width}}  {worker['state']:11}  {note}".rstrip())
        lines += [
            f"  {'':{width}}  version {version['version']} {version['state']} {version['digest']}".rstrip()
            for version in worker["versions"]
        ]
    return lines or ["  no worker is live"]


def _moment(at: float) -> str:
    return dt.datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds")


def _dumped(content: Any) -> str:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()
