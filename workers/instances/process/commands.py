"""The commands that a worker gives to a child, as calls. Each waits for the reply, so none is called on the event loop."""

from __future__ import annotations

import os
from collections.abc import Sequence

from workers.instances.process.channel import ChannelBroken, encode_message
from workers.instances.process.child import Child
from workers.instances.process.messages import (
    decode_load_error,
    decode_metadata,
    decode_verdict,
    encode_placement,
    encode_version,
)
from workers.instances.readiness import Readiness, read_reports
from workers.repository.completion import BackendMetadata
from workers.repository.placement import Placement
from workers.repository.row_influence import Verdict
from workers.repository.version import ModelVersion


def inspect(
    child: Child, version: ModelVersion, gpus: Sequence[int] = (), threads: int = 1, *, metadata: bool = True
) -> tuple[BackendMetadata | None, tuple[int, ...]]:
    """See `Backend.inspect`; also which of the GPUs the backend can use, so that this process need not import the framework.

    Args:
        child: runs the backend.
        version: its configuration need not be complete.
        gpus: numbers of the worker's.
        threads: for the libraries of the model's code, which are imported now.
        metadata: whether to look at the model; without, its metadata are None.

    Raises:
        FleetError: as a backend in this process would have raised it.
        InstanceDied: the model ended the child.
    """
    try:
        command = {
            "name": "inspect", "version": encode_version(version), "gpus": list(gpus), "threads": threads, "look": metadata,
        }  # fmt: skip
        reply, _ = child.send_command(encode_message(command))
    except ChannelBroken:
        raise child.exit_error(f"while model '{version.model}' was inspected") from None
    if "error" in reply:
        raise decode_load_error(reply["error"], version)
    return decode_metadata(reply["metadata"]), tuple(reply["gpus"])


def load(child: Child, version: ModelVersion, placement: Placement) -> bool:
    """See `Backend.load`; also warms up. Returns whether the model has an `is_ready` to `watch`.

    Raises:
        FleetError, InstanceDied: see `inspect`.
    """
    command = {"name": "load", "version": encode_version(version), "placement": encode_placement(placement)}
    try:
        reply, _ = child.send_command(encode_message(command))
    except ChannelBroken:
        raise child.exit_error(f"while instance '{placement.name}' was loaded") from None
    if "error" in reply:
        raise decode_load_error(reply["error"], version)
    return bool(reply.get("watchable"))


def try_batching(child: Child) -> Verdict:
    """See `batching_check.try_batching`, of the loaded instance.

    Raises:
        InstanceDied: the model ended the child.
    """
    try:
        reply, _ = child.send_command(encode_message({"name": "try_batching"}))
    except ChannelBroken:
        raise child.exit_error("while made-up rows ran in it, to see whether they may share a batch") from None
    return decode_verdict(reply)


def reconfigure(child: Child, version: ModelVersion) -> bool:
    """See `opening.reconfigured`, of the loaded instance; False if it must be loaded anew.

    Raises:
        FleetError, InstanceDied: see `inspect`.
    """
    try:
        reply, _ = child.send_command(encode_message({"name": "reconfigure", "version": encode_version(version)}))
    except ChannelBroken:
        raise child.exit_error("while it got another configuration") from None
    if "error" in reply:
        raise decode_load_error(reply["error"], version)
    return bool(reply["done"])


def watch(child: Child, version: ModelVersion, readiness: Readiness) -> None:
    """Have the child ask its model's `is_ready` from now on and report it to `readiness`.

    Raises:
        InstanceDied: the child is gone.
    """
    reader, writer = os.pipe()
    read_reports(reader, readiness)
    try:
        child.send_command(encode_message({"name": "watch", "model": version.model}), (writer,))
    except ChannelBroken:
        raise child.exit_error("while its is_ready was first called") from None
    finally:
        os.close(writer)


def close(child: Child, version: ModelVersion) -> None:
    """See `Instance.close`; the child exits.

    Raises:
        FleetError, InstanceDied: see `inspect`.
    """
    try:
        reply, _ = child.send_command(encode_message({"name": "close"}))
    except ChannelBroken:
        raise child.exit_error("while it was closed") from None
    if "error" in reply:
        raise decode_load_error(reply["error"], version)
