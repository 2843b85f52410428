"""Message classes made at run time from compiled descriptors; docs/decisions/0003 says why there is no generated code."""

from __future__ import annotations

import functools
import pkgutil
from typing import Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

DESCRIPTOR_SETS: Final = (
    "model_config.binpb", "grpc_service.binpb", "health.binpb", "reflection.binpb", "external_scaler.binpb",
)  # fmt: skip
"""Files made by `python -m protocol.proto.compile`, each from the .proto of the same name."""


@functools.cache
def pool() -> descriptor_pool.DescriptorPool:
    """A private pool, so that another package's `inference.*` messages in this process do not clash with ours."""
    private = descriptor_pool.DescriptorPool()
    for name in DESCRIPTOR_SETS:
        raw = pkgutil.get_data(__name__, name)
        assert raw is not None
        for file in descriptor_pb2.FileDescriptorSet.FromString(raw).file:
            private.AddSerializedFile(file.SerializeToString())
    return private


def descriptor(full_name: str) -> Descriptor:
    """The descriptor of a message, such as `inference.ModelConfig`."""
    return pool().FindMessageTypeByName(full_name)


@functools.cache
def message_class(full_name: str) -> type[Message]:
    """The class of a message, such as `inference.ModelConfig`."""
    return message_factory.GetMessageClass(descriptor(full_name))
