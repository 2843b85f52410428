"""All unary methods but ModelInfer: health, metadata, configuration, statistics, repository, shared memory, settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError

from gateway.calls.service import Service
from gateway.catalogue import statistics
from gateway.repository.control import RepositoryControl
from gateway.repository.parameters import LoadOptions, parse_parameters
from gateway.rest.routes import EXTENSIONS
from gateway.rpc.caller import Caller
from gateway.rpc.requests import version_of
from gateway.rpc.scanning import entries
from protocol.errors import CodecError, FleetError, InvalidArgument, NotFound, TooLarge, Unsupported, quoted
from protocol.proto import message_class, pool

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of a message of these methods; that of a load call may have files, and as many bytes as a request."""
_MAX_FIELDS: Final = 1024
_OPTIONS: Final = frozenset(field.name for field in dataclasses.fields(LoadOptions))
_FILE: Final = "file:"

Method = Callable[[Any, Caller], Awaitable[dict[str, Any]]]


class Management:
    """Answers these methods.

    Attributes:
        methods: by name.
        open: those that need no API key.
    """

    open: Final = frozenset({"ServerLive", "ServerReady"})

    def __init__(self, service: Service, repository: RepositoryControl, version: str) -> None:
        self._service = service
        self._repository = repository
        self._version = version
        self.methods: dict[str, Method] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "SystemSharedMemoryStatus": self._memory_status,
            "SystemSharedMemoryRegister": self._memory_register,
            "SystemSharedMemoryUnregister": self._memory_unregister,
            "CudaSharedMemoryStatus": self._cuda_status,
            "CudaSharedMemoryRegister": self._cuda_register,
            "CudaSharedMemoryUnregister": self._cuda_unregister,
            "TraceSetting": self._trace_setting,
            "LogSettings": self._log_settings,
        }

    async def answer(self, method: str, caller: Caller, message: bytes) -> bytes:
        """The response to a message of this method.

        Raises:
            FleetError: the message is wrong, or the method refuses it.
        """
        if method != "RepositoryModelLoad" and len(message) > MAX_MESSAGE:
            raise TooLarge(f"the message has {len(message)} bytes; at most {MAX_MESSAGE} are allowed for {method}")
        if entries(message, _MAX_FIELDS) >= _MAX_FIELDS:
            raise InvalidArgument(f"the message has {_MAX_FIELDS} fields or more")
        try:
            asked: Any = message_class(f"inference.{method}Request").FromString(message)
        except DecodeError as error:
            raise CodecError(f"the message is not a {method}Request: {error}") from None
        return encoded(f"inference.{method}Response", await self.methods[method](asked, caller))

    @property
    def ready(self) -> bool:
        """Whether the server is ready."""
        return self._service.ready

    # --- health and metadata ------------------------------------------------------------------------------------------

    async def _live(self, asked: Any, caller: Caller) -> dict[str, Any]:
        return {"live": True}

    async def _ready(self, asked: Any, caller: Caller) -> dict[str, Any]:
        return {"ready": self.ready}

    async def _server_metadata(self, asked: Any, caller: Caller) -> dict[str, Any]:
        memory = ["system_shared_memory"] if self._service.regions.allowed else []
        return {"name": "penstock", "version": self._version, "extensions": sorted([*EXTENSIONS, *memory])}

    async def _model_ready(self, asked: Any, caller: Caller) -> dict[str, Any]:
        version = version_of(asked.version)
        try:
            return {"ready": not self._service.resolve(asked.name, version).unready}
        except FleetError:
            return {"ready": False}

    async def _model_metadata(self, asked: Any, caller: Caller) -> dict[str, Any]:
        version = version_of(asked.version)
        await self._arrived(asked.name, version)
        catalogue = self._service.catalogue
        served = catalogue.resolve(asked.name, version)
        versions = [version] if version else [s.version for s in catalogue.versions(asked.name) if s.ready]
        return statistics.metadata(served.config, versions)

    async def _model_config(self, asked: Any, caller: Caller) -> dict[str, Any]:
        version = version_of(asked.version)
        await self._arrived(asked.name, version)
        config = self._service.catalogue.resolve(asked.name, version).config.to_json()
        return {"config": {name: value for name, value in config.items() if value != 0}}  # as messages without presence

    async def _arrived(self, model: str, version: str) -> None:
        """Wait for a model that may still appear, as calls do."""
        service = self._service
        await service.arrivals.wait(model, version, service.clock() + service.settings.default_timeout)

    async def _model_statistics(self, asked: Any, caller: Caller) -> dict[str, Any]:
        model, version = asked.name, version_of(asked.version)
        try:
            return await self._service.statistics(model, version)
        except NotFound:
            if version and any(served.model == model for served in self._service.catalogue.all()):
                raise InvalidArgument(f"requested model version is not available for model '{model}'") from None
            raise InvalidArgument(f"requested model '{model}' is not available") from None

    # --- repository ---------------------------------------------------------------------------------------------------

    async def _index(self, asked: Any, caller: Caller) -> dict[str, Any]:
        _check_repository(asked)
        return {"models": self._repository.index(asked.ready)}

    async def _load(self, asked: Any, caller: Caller) -> dict[str, Any]:
        _check_repository(asked)
        config, files, options = "", {}, {}
        for name, value in asked.parameters.items():
            if name == "config":
                config = _expected(value, "string_param", f"load parameter '{name}'")
            elif name.startswith(_FILE):
                files[name.removeprefix(_FILE)] = _expected(value, "bytes_param", f"load parameter '{name}'")
            elif name in _OPTIONS:
                options[name] = getattr(value, value.WhichOneof("parameter_choice") or "string_param")
            else:
                raise InvalidArgument(f"unrecognized load parameter '{name[:200]}'.")
        if isinstance(digests := options.get("digests"), str):
            options["digests"] = digests.split(",") if digests else []
        _, _, chosen = parse_parameters(options)
        await self._repository.load(asked.model_name, config, files, caller.principal, chosen)
        return {}

    async def _unload(self, asked: Any, caller: Caller) -> dict[str, Any]:
        _check_repository(asked)
        dependents = False
        if "unload_dependents" in asked.parameters:
            value = asked.parameters["unload_dependents"]
            dependents = _expected(value, "bool_param", "'unload_dependents' parameter")
        await self._repository.unload(asked.model_name, dependents, caller.principal)
        return {}

    # --- shared memory ------------------------------------------------------------------------------------------------

    async def _memory_status(self, asked: Any, caller: Caller) -> dict[str, Any]:
        regions = self._service.regions.status(asked.name)
        return {"regions": {region.name: dataclasses.asdict(region) for region in regions}}

    async def _memory_register(self, asked: Any, caller: Caller) -> dict[str, Any]:
        self._service.regions.register(asked.name, asked.key, asked.offset, asked.byte_size)
        return {}

    async def _memory_unregister(self, asked: Any, caller: Caller) -> dict[str, Any]:
        self._service.regions.unregister(asked.name)
        return {}

    async def _cuda_status(self, asked: Any, caller: Caller) -> dict[str, Any]:
        self._service.regions.check_allowed()
        if asked.name:
            raise self._service.regions.cuda_refused()
        return {}

    async def _cuda_register(self, asked: Any, caller: Caller) -> dict[str, Any]:
        self._service.regions.check_allowed()
        raise self._service.regions.cuda_refused()

    async def _cuda_unregister(self, asked: Any, caller: Caller) -> dict[str, Any]:
        self._service.regions.check_allowed()
        return {}

    # --- settings -----------------------------------------------------------------------------------------------------

    async def _trace_setting(self, asked: Any, caller: Caller) -> dict[str, Any]:
        trace = self._service.trace_settings
        given = {name: _traced(name, list(value.value)) for name, value in asked.settings.items()}
        settings = trace.update(asked.model_name, given) if given else trace.get(asked.model_name)
        listed = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
        return {"settings": {name: {"value": value} for name, value in listed.items()}}

    async def _log_settings(self, asked: Any, caller: Caller) -> dict[str, Any]:
        given = {name: _logged(name, value) for name, value in asked.settings.items()}
        log = self._service.log_settings
        settings = log.update(given) if given else log.get()
        return {"settings": {name: _log_value(value) for name, value in settings.items()}}


def encoded(name: str, content: dict[str, Any]) -> bytes:
    """A message of this name with this content, in protobuf's JSON form; unknown fields are left out."""
    message: Any = message_class(name)()
    try:
        ParseDict(content, message, ignore_unknown_fields=True, descriptor_pool=pool())
    except ParseError as error:
        raise FleetError(f"the answer cannot be written as {name}: {error}") from None
    raw: bytes = message.SerializeToString()
    return raw


def _check_repository(asked: Any) -> None:
    if asked.repository_name:
        raise Unsupported("'repository_name' specification is not supported")


def _expected(value: Any, kind: str, what: str) -> Any:
    """The value of a parameter that must have this field."""
    if value.WhichOneof("parameter_choice") != kind:
        raise InvalidArgument(f"invalid value type for {what}, expected {kind}.")
    return getattr(value, kind)


def _traced(name: str, values: list[str]) -> list[str] | str | None:
    """The value of a trace setting, as its HTTP route takes it."""
    if not values:
        return None
    if name == "trace_level":
        return values
    if len(values) != 1:
        raise InvalidArgument(f"expect only 1 value for {quoted(name)}")
    return values[0]


def _logged(name: str, value: Any) -> bool | int | str:
    kind = value.WhichOneof("parameter_choice")
    if name in ("log_info", "log_warning", "log_error") and kind != "bool_param":
        raise InvalidArgument(f"expect boolean for '{name}'")
    if name == "log_verbose_level" and kind != "uint32_param":
        raise InvalidArgument(f"expect int32 for '{name}'")
    if kind is None:
        raise InvalidArgument(f"log setting {quoted(name)} has no value")
    given: bool | int | str = getattr(value, kind)
    return given


def _log_value(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"bool_param": value}
    return {"uint32_param": value} if isinstance(value, int) else {"string_param": value}
