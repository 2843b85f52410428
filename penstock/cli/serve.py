"""`penstock serve`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from penstock.cli import grpc_port, meant
from penstock.cli.example import Server, Trial, example
from penstock.cli.options import (
    gateway_options,
    log_options,
    metrics_option,
    model_options,
    option,
    options,
    processes_option,
)
from penstock.cli.ports import require_free
from penstock.cli.repositories import split
from penstock.cli.settings import made, transport_settings
from penstock.paths import similar
from protocol.errors import ConfigError
from protocol.model_config import ModelConfig, TensorSpec
from protocol.runtime.tasks import BackgroundTasks
from workers.repository import model_files
from workers.repository.model_files import ModelFile
from workers.repository.stated_inputs import parse_input, require_distinct_inputs

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from workers.worker import Worker

_SHOWN: Final = 10
"""Models whose lines are printed."""


class ModelFileType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click alone
    """`FILE` or `NAME=FILE`."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ModelFile:
        """The existing file."""
        try:
            file = model_files.parse(value, os.path.isfile)
        except ConfigError as error:
            self.fail(error.message, param, ctx)
        if not file.path.exists():
            if address := meant.for_address(value):
                self.fail(address, param, ctx)
            if file.path.is_symlink():
                self.fail(f"'{file.path}' is a link to '{file.path.readlink()}', where there is no file", param, ctx)
        if file.path.is_dir():
            self.fail(f"'{file.path}' is a folder; {meant.for_file(file.path)}", param, ctx)
        if not file.path.exists():
            self.fail(f"there is no file '{file.path}'{similar(file.path)}", param, ctx)
        return file

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Files, which the shell knows."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class InputType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click alone
    """`NAME:DATATYPE:DIMS`."""

    name = "NAME:DATATYPE:DIMS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TensorSpec:
        """The input."""
        try:
            return value if isinstance(value, TensorSpec) else parse_input(value)
        except ConfigError as error:
            self.fail(error.message, param, ctx)


def _with_inputs(files: tuple[ModelFile, ...], inputs: tuple[TensorSpec, ...]) -> tuple[ModelFile, ...]:
    """The files with the inputs that `--input` states for one of them."""
    if inputs and len(files) != 1:
        raise ConfigError(
            f"--input is of one FILE, and there are {len(files)}; serve it alone, or from a --model-repository"
        )
    require_distinct_inputs(inputs)
    return tuple(dataclasses.replace(file, inputs=inputs) for file in files)


@click.command()
@click.argument("model_file", nargs=-1, metavar="[NAME=]FILE...", required=False, type=ModelFileType())
@options(
    model_options,
    gateway_options,
    processes_option,
    metrics_option,
    option("--input", multiple=True, type=InputType(), help="An input of FILE, where the file does not state it, as TorchScript does not: NAME:DATATYPE:DIMS without the batch dimension, -1 for any size, no DIMS for a scalar; may be repeated."),  # noqa: E501
    option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Keep the queue and results here; they survive a kill."),  # noqa: E501
    option("--try-examples/--no-try-examples", default=True, envvar="PENSTOCK_TRY_EXAMPLES", help="Run each model that is no Python code with made-up inputs once it is loaded, to print a command that works."),  # noqa: E501
    option("--fsync", is_flag=True, help="With --data-dir: they also survive a power loss."),
    option("--prefix", default="penstock", help="Prefix of topics and keys, as in a fleet."),
    option("--result-ttl", type=float, default=3600.0, help="Seconds to keep the results of keyed and asynchronous calls."),
    log_options,
)  # fmt: skip
def command(model_file: tuple[ModelFile, ...], log_format: str, log_level: str, **flags: Any) -> None:
    """Serve models in one process: gateway, log, batcher and models; no Kafka, no Redis.

    FILE is a .onnx, .ort, .pt2, .pt, .pth, .jit or .py file. Version and configuration are completed, and the model's name is the
    file's unless NAME is given. Or give a --model-repository.

    \b
        penstock serve model.onnx
        penstock serve wine=runs/7/model.onnx digits=runs/9/model.onnx
        penstock serve scripted.pt --input x:FP32:3,224,224
        penstock serve --model-repository models --data-dir /var/lib/penstock
    """
    from protocol.runtime import logs, loop

    if not model_file and not flags["model_repository"]:
        raise ConfigError(
            "nothing to serve: name a model file, as in penstock serve model.onnx, or give --model-repository DIR; "
            "penstock new NAME writes a first model"
        )
    model_file = _with_inputs(model_file, flags.pop("input"))
    model_files.require_distinct(model_file)
    logs.configure(log_format, log_level)
    loop.leave(loop.run(_serve(model_file, flags, (log_format, log_level))))


async def _serve(model_file: tuple[ModelFile, ...], flags: dict[str, Any], logs: tuple[str, str]) -> int:
    from gateway.settings import GatewaySettings
    from workers.settings import WorkerSettings

    grpc_port.choose(flags)
    gateway = made(GatewaySettings, flags)
    worker = made(WorkerSettings, split(flags), model_file=model_file)
    transport = transport_settings(**flags)
    require_free(flags)

    background = BackgroundTasks("serve")

    def tell(models: Worker, port: int) -> None:
        background.spawn(_tell(models, port, flags))

    try:
        if flags["processes"] > 1:
            from penstock.many_processes import ManyProcesses

            many = ManyProcesses(flags["processes"], gateway, worker, transport, logs)
            return await many.run(lambda: tell(many.worker, many.processes.settings.http_port))
        from penstock.one_process import OneProcess

        fleet = OneProcess(gateway, worker, transport)
        await fleet.run(lambda: tell(fleet.worker, fleet.gateway.port))
        return 0
    finally:
        await background.close()


async def _tell(models: Worker, port: int, flags: dict[str, Any]) -> None:
    """Print what is served and how to call it, once it is known which made-up inputs the models accept."""
    from penstock.cli.trial import Trials

    loaded = {serving.loaded.version.model: serving.loaded for serving in models.models.serving()}
    trials = Trials()
    tried = [
        (each.version.config, await trials.run(each) if flags["try_examples"] else Trial())
        for each in list(loaded.values())[:_SHOWN]
    ]
    print("\n".join(_served(tried, len(loaded), port, flags)), flush=True)


def _served(tried: list[tuple[ModelConfig, Trial]], count: int, port: int, flags: dict[str, Any]) -> Iterator[str]:
    """The lines that say what is served, and how to call it."""
    server = Server(flags["host"], port, flags["tls_certificate"], bool(flags["api_key"]))
    for config, trial in tried:
        yield f"\n{example(server, config, trial)}"
    if count > len(tried):
        yield f"\nand {count - len(tried)} more: {server.command('models')}"
    if not count:
        local = [each for each in flags["model_repository"] if isinstance(each, Path)]
        explicit = flags["model_control_mode"] == "explicit"
        advice = "; load one with: " + server.command("models", "load", "NAME") if explicit else ""
        advice = advice or "".join(
            meant.without_models(each, "penstock serve --model-repository") for each in local[:1]
        )
        yield f"\nno model is served at {server.url}{advice}"
    if flags["page"]:
        yield f"\n{server.url}/ shows models and figures in a browser, and sends requests."
    if server.keyed:
        yield "\nPENSTOCK_API_KEY must hold the API key in the shell of those lines."
    if flags["tls_client_ca"]:
        yield "\nCallers need a client certificate: add --cert FILE --key FILE to the curl lines; penstock infer cannot send one."
    if flags["http_restricted_api"]:
        yield (
            "\nSome calls need the header of --http-restricted-api: add -H 'KEY: VALUE' to the curl lines; "
            "penstock infer cannot send one."
        )
