"""`penstock serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.options import gateway_options, log_options, metrics_option, model_options, option, options
from penstock.cli.settings import chosen, transport_settings
from protocol.errors import ConfigError
from protocol.model_config import ModelConfig

if TYPE_CHECKING:
    from penstock.one_process import OneProcess


@click.command()
@click.argument("model_file", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options(
    model_options,
    gateway_options,
    metrics_option,
    option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Keep the queue and results here; they survive a kill."),  # noqa: E501
    option("--fsync", is_flag=True, help="With --data-dir: they survive a power loss, too."),
    option("--prefix", default="penstock", help="Of topics and keys, as in a fleet."),
    option("--result-ttl", type=float, default=3600.0, help="Seconds that results of keyed and asynchronous calls are kept."),
    log_options,
)  # fmt: skip
def command(model_file: tuple[Path, ...], log_format: str, log_level: str, **flags: Any) -> None:
    """Serve models in one process: gateway, log, batcher and models; no Kafka, no Redis.

    MODEL_FILE is a .onnx, .pt, .pt2 or .py file, whose name, version and configuration are completed; or give a
    --model-repository.

    \b
        penstock serve model.onnx
        penstock serve --model-repository models --data-dir /var/lib/penstock
    """
    from protocol import logs, loop

    if not model_file and not flags["model_repository"]:
        raise ConfigError("nothing to serve: name a model file, or give --model-repository")
    logs.configure(log_format, log_level)
    loop.run(_serve(model_file, flags))


async def _serve(model_file: tuple[Path, ...], flags: dict[str, Any]) -> None:
    from gateway.settings import GatewaySettings
    from penstock.one_process import OneProcess
    from workers.settings import WorkerSettings

    fleet = OneProcess(
        GatewaySettings(**chosen(GatewaySettings, flags)),
        WorkerSettings(model_file=model_file, **chosen(WorkerSettings, flags)),
        transport_settings(**flags),
    )
    await fleet.run(lambda: _show(fleet, flags))


def _show(fleet: OneProcess, flags: dict[str, Any]) -> None:
    scheme = "https" if flags["tls_certificate"] else "http"
    url = f"{scheme}://{flags['host']}:{fleet.gateway.port}"
    for serving in fleet.worker.models.serving():
        config = serving.loaded.version.config
        print(f"\n{config.name} is served at {url}; try:\n  {example(url, config, flags['api_key'])}", flush=True)


def example(url: str, config: ModelConfig, api_key: str = "") -> str:
    """A curl line that sends zeros of the right shapes; text where the model takes BYTES."""
    inputs = []
    for spec in config.inputs:
        if spec.optional:
            continue
        shape = [1 if size < 0 else size for size in config.shape_of(spec)]
        count = 1
        for size in shape:
            count *= size
        value = {"BYTES": '"text"', "BOOL": "true"}.get(spec.datatype, "0")
        shapes = ",".join(map(str, shape))
        data = ",".join([value] * count)
        inputs.append(f'{{"name":"{spec.name}","shape":[{shapes}],"datatype":"{spec.datatype}","data":[{data}]}}')
    key = " -H 'Authorization: Bearer $PENSTOCK_API_KEY'" if api_key else ""
    body = '{"inputs":[' + ",".join(inputs) + "]}"
    if len(body) > 600:
        return f"penstock infer {config.name} --random 1 --url {url}"
    return f"curl -s {url}/v2/models/{config.name}/infer{key} -d '{body}'"
