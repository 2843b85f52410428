"""The standard reflection service, from the descriptors of our messages. Pure."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError

from protocol.errors import CodecError, quoted
from protocol.proto import message_class, pool

SERVICES: Final = ("inference.GRPCInferenceService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection")
_NOT_FOUND: Final = 5
_UNIMPLEMENTED: Final = 12


def answer(request: bytes) -> bytes:
    """The answer to one ServerReflectionRequest.

    Raises:
        CodecError: it is none.
    """
    try:
        asked: Any = message_class("grpc.reflection.v1.ServerReflectionRequest").FromString(request)
    except DecodeError as error:
        raise CodecError(f"the message is not a ServerReflectionRequest: {error}") from None
    response: Any = message_class("grpc.reflection.v1.ServerReflectionResponse")(valid_host=asked.host)
    response.original_request.CopyFrom(asked)
    kind = asked.WhichOneof("message_request")
    if kind == "list_services":
        for name in SERVICES:
            response.list_services_response.service.add(name=name)
    elif kind in ("file_by_filename", "file_containing_symbol"):
        _describe(response, kind, getattr(asked, kind))
    elif kind in ("file_containing_extension", "all_extension_numbers_of_type"):
        _refuse(response, _NOT_FOUND, "no message here has extensions")
    else:
        _refuse(response, _UNIMPLEMENTED, "the request asks for nothing that is known here")
    raw: bytes = response.SerializeToString()
    return raw


def _describe(response: Any, kind: str, name: str) -> None:
    find = pool().FindFileByName if kind == "file_by_filename" else pool().FindFileContainingSymbol
    try:
        file = find(name)
    except KeyError:
        _refuse(response, _NOT_FOUND, f"there is no {quoted(name)} here")
        return
    found = response.file_descriptor_response.file_descriptor_proto
    for each in _with_imports(file):
        proto = descriptor_pb2.FileDescriptorProto()
        each.CopyToProto(proto)
        found.append(proto.SerializeToString())


def _with_imports(file: FileDescriptor) -> list[FileDescriptor]:
    files = {file.name: file}
    for each in file.dependencies:
        files |= {known.name: known for known in _with_imports(each)}
    return list(files.values())


def _refuse(response: Any, code: int, text: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = text
