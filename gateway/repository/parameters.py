"""What a load call may ask for, and the record that it becomes. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from protocol.control import DesiredModel, check_path
from protocol.errors import FleetError, InvalidArgument, TooLarge, quoted
from protocol.limits import MAX_COUNT, MAX_SECONDS
from protocol.messages import ANONYMOUS
from protocol.model_config import ModelConfig

MAX_CONFIG: Final = 1024 * 1024
"""Characters of a configuration."""
MAX_FILES: Final = 256
"""Files of one load call."""
MAX_FILE_BYTES: Final = 512 * 1024 * 1024
"""Bytes of all files of one load call."""
MAX_DIGESTS: Final = 64
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")
_FILE: Final = "file:"


@dataclasses.dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a fleet offers beyond Triton. None leaves what an earlier load call of the model said.

    Attributes:
        replicas: workers that serve the model; 0 for all that can.
        pinned: it is never evicted.
        lease_s: seconds after which it is unloaded unless the lease is renewed; 0 for never.
        idle_after_s: seconds without a request after which it is evicted; 0 for never.
        digests: the only digests of versions that may be served; empty for any.

    Raises:
        InvalidArgument: naming what is out of its bounds.
    """

    replicas: int | None = None
    pinned: bool | None = None
    lease_s: float | None = None
    idle_after_s: float | None = None
    digests: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.replicas is not None and not 0 <= self.replicas <= MAX_COUNT:
            raise InvalidArgument(
                f"'replicas' is {quoted(self.replicas)}; it must be a number of workers, or 0 for all"
            )
        for name in ("lease_s", "idle_after_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and 0 <= value <= MAX_SECONDS):
                raise InvalidArgument(f"'{name}' is {quoted(value)}; it must be a number of seconds, or 0 for never")
        if self.digests is not None:
            if len(self.digests) > MAX_DIGESTS:
                raise InvalidArgument(f"'digests' has {len(self.digests)} entries; at most {MAX_DIGESTS} are allowed")
            for digest in self.digests:
                if not _DIGEST.match(digest):
                    raise InvalidArgument(
                        f"'digests' has {quoted(digest)}; a digest is 64 hexadecimal digits, in lower case"
                    )
        if self.pinned and (self.lease_s or self.idle_after_s):
            raise InvalidArgument(
                "a pinned model is never evicted: 'pinned' cannot go with 'lease_s' or 'idle_after_s'"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class LoadCall:
    """A load call.

    Attributes:
        config: JSON of a configuration that replaces the repository's; "" for none.
        files: by path in the model's folder.
        options: what a fleet offers beyond Triton.
        principal: the caller.

    Raises:
        InvalidArgument, TooLarge: naming what is wrong.
    """

    model: str
    config: str = ""
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    options: LoadOptions = dataclasses.field(default_factory=LoadOptions)
    principal: str = ANONYMOUS

    def __post_init__(self) -> None:
        if self.files:
            _check_files(self.model, self.files)
            if not self.config:
                raise InvalidArgument(f"{failed_to_poll(self.model)}: a call with files must also have 'config'")
        if len(self.config) > MAX_CONFIG:
            raise TooLarge(f"'config' has {len(self.config)} characters; at most {MAX_CONFIG} are allowed")
        if self.config:
            _check_config(self.model, self.config)


def failed_to_poll(model: str) -> str:
    """Triton's words for a model that it cannot find or whose configuration it cannot read."""
    return f"failed to load '{model}', failed to poll from model repository"


def _check_files(model: str, files: Mapping[str, bytes]) -> None:
    if (
        not model
        or not model.isprintable()
        or model != model.strip()
        or model.startswith(".")
        or any(c in model for c in "/\\")
    ):
        raise InvalidArgument(
            f"model name {quoted(model)} must be a plain name: a call with files makes a folder of it"
        )
    if len(files) > MAX_FILES:
        raise TooLarge(f"the call has {len(files)} files; at most {MAX_FILES} are allowed")
    size = sum(len(content) for content in files.values())
    if size > MAX_FILE_BYTES:
        raise TooLarge(f"the files have {size} bytes; at most {MAX_FILE_BYTES} are allowed")
    for path in files:
        check_path(path)
        if any(other.startswith(f"{path}/") for other in files):
            raise InvalidArgument(f"the file path {quoted(path)} is also the folder of another file")


def _check_config(model: str, config: str) -> None:
    try:
        found = ModelConfig.from_json(orjson.loads(config))
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"{failed_to_poll(model)}: 'config' is not JSON: {error}") from None
    except FleetError as error:
        raise InvalidArgument(f"{failed_to_poll(model)}: {error.message}") from None
    if found.name not in ("", model):
        raise InvalidArgument(f"{failed_to_poll(model)}: 'config' is of model {quoted(found.name)}")


def load_record(call: LoadCall, before: DesiredModel | None, now: float) -> DesiredModel:
    """The record of a load call. What it leaves out stays as an earlier load call said, until the model is unloaded.

    Args:
        call: checked.
        before: the newest record of the model.
        now: seconds on the fleet's clock.
    """
    options = call.options
    kept = before if before is not None and before.loaded else DesiredModel(call.model, loaded=True)
    lease = kept.lease_until if kept.lease_until > now else 0.0
    if options.lease_s is not None:
        lease = now + options.lease_s if options.lease_s else 0.0
    idle_after = kept.idle_after if options.idle_after_s is None else options.idle_after_s
    pinned = kept.pinned if options.pinned is None else options.pinned
    if options.pinned:
        lease = idle_after = 0.0
    elif options.lease_s or options.idle_after_s:
        pinned = False
    files = {path: hashlib.sha256(content).hexdigest() for path, content in call.files.items()}
    allowed = () if before is None else before.digests
    return DesiredModel(
        call.model, True, call.config or kept.config, files if call.config else kept.files,
        kept.replicas if options.replicas is None else options.replicas, pinned, lease, idle_after,
        allowed if options.digests is None else options.digests, now, call.principal,
    )  # fmt: skip


def parse_parameters(parameters: object) -> tuple[str, dict[str, str], LoadOptions]:
    """(configuration, base64 text of files by path, options) of a load call in JSON.

    Raises:
        InvalidArgument: in Triton's words where it has some.
    """
    if not isinstance(parameters, dict):
        raise InvalidArgument("attempt to get members for non-object")
    config, files, options = "", {}, {}
    for name, value in parameters.items():
        if name == "config" or name.startswith(_FILE):
            if not isinstance(value, str):
                raise InvalidArgument(f"attempt to access JSON non-string as string: parameter {quoted(name)}")
            if name == "config":
                config = value
            else:
                files[name.removeprefix(_FILE)] = value
        elif name in _OPTIONS:
            options[name] = _option(name, value)
        else:
            raise InvalidArgument(
                f"unexpected error on creating Triton parameter: {quoted(name)} is none of config, file:<path>, "
                + ", ".join(_OPTIONS)
            )
    return config, files, LoadOptions(**options)


def _option(name: str, value: object) -> Any:
    kinds = _OPTIONS[name]
    if isinstance(value, bool) is not (kinds is bool) or not isinstance(value, kinds):
        raise InvalidArgument(f"parameter '{name}' must be {_SPELLED[kinds]}, not {quoted(value)}")
    if isinstance(value, list):
        if not all(isinstance(entry, str) for entry in value):
            raise InvalidArgument(f"parameter '{name}' must be a list of texts")
        return tuple(value)
    return value


_OPTIONS: Final[dict[str, Any]] = {
    "replicas": int, "pinned": bool, "lease_s": (int, float), "idle_after_s": (int, float), "digests": list,
}  # fmt: skip
_SPELLED: Final[dict[Any, str]] = {
    int: "a whole number", bool: "true or false", (int, float): "a number", list: "a list of texts",
}  # fmt: skip
