"""The child that runs one dead record, and may die: `python -m penstock.dead.reproduce_child FOLDER REPORT VERSION REPOSITORY…`.

It loads the model with the worker's own backends and calls an instance as a worker does. Each step is written to the report as a
line of JSON before it begins, so that the report shows how far the child got.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from pathlib import Path
from typing import IO, Any

import orjson

from penstock.dead import reproducer
from penstock.dead.reproduction_result import RunEnd, Stage
from penstock.dead.showing import tensor
from protocol.codec import decode_request
from protocol.errors import FleetError, described
from protocol.messages import Failure, InferRequest
from workers.backends import load_backend, usable_gpus
from workers.backends.base import Instance, Outcome
from workers.backends.opening import load_version, open_version
from workers.devices import Hardware, cores
from workers.instances.process.namespace import prefer_modules_in
from workers.repository.completion import complete
from workers.repository.placement import expected_place, place
from workers.repository.scan import scan_repositories
from workers.repository.signature import Signature
from workers.repository.version import ModelVersion


class ChildReport:
    """Lines of JSON in a file; each is flushed before the call returns, and survives a crash."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def say(self, **facts: Any) -> None:
        """Add a line."""
        self._file.write(orjson.dumps(facts) + b"\n")
        self._file.flush()


def find_version(repositories: list[Path], model: str, version: str, *, digests: bool) -> ModelVersion:
    """The model version to run against.

    Raises:
        FleetError: it does not exist, or cannot be served.
    """
    found = next((each for each in scan_repositories(repositories, digests=digests) if each.name == model), None)
    where = ", ".join(map(str, repositories))
    if found is None:
        raise FleetError(f"{where} has no model '{model}'")
    if found.reason:
        raise FleetError(f"model '{model}': {found.reason}")
    for each in found.versions:
        if str(each.version) == version:
            return each
    served = ", ".join(str(each.version) for each in found.versions)
    raise FleetError(f"{where} has no version {version} of model '{model}', only {served}; choose one with --version")


def load_instance(version: ModelVersion) -> tuple[ModelVersion, Instance]:
    """One instance, as a child of a worker on this machine would load it; the version with its complete configuration."""
    backend: Any = load_backend(version.config.backend)
    if hasattr(backend, "dedicated"):
        backend.dedicated = True
    prefer_modules_in(list(dict.fromkeys((version.path.parent, version.folder))))
    gpus = usable_gpus(backend, Hardware().gpus)
    expected = expected_place(version.config, gpus, cores=cores())
    metadata, opened = open_version(backend, version, expected)
    version = dataclasses.replace(version, config=complete(version.config, metadata))
    placement = place(version.config, gpus, cores())[0]
    return version, load_version(backend, version, placement, opened)


def run_alone(instance: Instance, request: InferRequest) -> dict[str, Any]:
    """Run the request alone, and return the result as a line of the report."""
    started = time.monotonic()
    try:
        outcomes = instance.split([request], instance.run(instance.prepare([request])))
        outcome: Outcome = outcomes[0]
    except Exception as exc:
        text = described(exc)
        outcome = Failure(FleetError.code, text)
    seconds = time.monotonic() - started
    if isinstance(outcome, Failure):
        return {"end": RunEnd.FAILED, "text": outcome.message, "seconds": seconds, "outputs": []}
    outputs = [tensor(each) for each in outcome]
    return {"end": RunEnd.SUCCEEDED, "text": "the model answered", "seconds": seconds, "outputs": outputs}


def reproduce_child(case: reproducer.Case, version: str, repositories: list[Path], report: ChildReport) -> None:
    """Run the record, and report every step."""
    letter = case.letter
    report.say(stage=Stage.LOADING)
    try:
        found = find_version(repositories, letter.model, version, digests=letter.model_digest is not None)
        report.say(digest=found.digest)
        found, instance = load_instance(found)
        signature = Signature(found.config)
    except FleetError as exc:
        report.say(unusable=exc.message)
        return
    report.say(stage=Stage.READING)
    try:
        request = decode_request(
            case.value,
            letter.original,
            model=letter.model,
            version=version,
            default_id=letter.id,
            timestamp=letter.dead_lettered_at,
        )
        request = signature.in_order(request, signature.check_request(request))
    except FleetError as exc:
        report.say(end=RunEnd.REFUSED, text=exc.message, seconds=0.0, outputs=[])
        return
    report.say(stage=Stage.RUNNING)
    report.say(**run_alone(instance, request))


def main(arguments: list[str]) -> None:
    """See the module's docstring."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected, and a model's core dump fills a disk
    where, report, version, *repositories = arguments
    with Path(report).open("ab") as file:
        reproduce_child(
            reproducer.load_case(Path(where)), version, [Path(each) for each in repositories], ChildReport(file)
        )


if __name__ == "__main__":
    main(sys.argv[1:])
