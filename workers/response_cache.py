"""The response cache of one worker: outputs by a hash of everything that a model sees of a request. Pure.

Invariants: the bytes of all entries, with what each costs besides, are at most `max_bytes`; the entry used longest ago goes
first; what is kept shares no memory with a request or a batch. Used on the event loop only.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from protocol.messages import InferRequest
from protocol.tensors import Tensor

Outputs = tuple[Tensor, ...]

MAX_INPUT_BYTES: Final = 4 * 1024 * 1024
"""Bytes of the inputs of a request that is looked up: the event loop hashes them, at about 1 ms per MB."""
ENTRY_BYTES: Final = 400
"""What an entry costs besides its tensors: measured with sys.getsizeof, rounded up."""
TENSOR_BYTES: Final = 300
"""What a tensor costs besides its data and its name, likewise."""


class ResponseCache:
    """Outputs by key.

    Args:
        max_bytes: of all entries; with 0 nothing is kept.

    Attributes:
        used: bytes of all entries.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._entries: collections.OrderedDict[bytes, tuple[Outputs, int]] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Outputs | None:
        """The outputs under the key, which is now the one used last; None if there are none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, outputs: Sequence[Tensor]) -> bool:
        """Keep a copy of the outputs; False if they are larger than the whole cache."""
        size = size_of(outputs)
        self._drop(key)
        if size > self.max_bytes:
            return False
        while self.used + size > self.max_bytes:
            self._drop(next(iter(self._entries)))
        copies = tuple([Tensor(each.name, each.datatype, each.shape, bytes(each.data)) for each in outputs])
        self._entries[key] = copies, size
        self.used += size
        return True

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used -= entry[1]


def size_of(outputs: Sequence[Tensor]) -> int:
    """Bytes that an entry of these outputs takes."""
    return ENTRY_BYTES + sum([TENSOR_BYTES + len(each.name) + len(each.data) for each in outputs])


def key_of(request: InferRequest, digest: str) -> bytes | None:
    """The hash under which the request's outputs are kept; None if it is too large to be looked up.

    It covers the model, its version and files, each input's name, datatype, shape and bytes, the wanted outputs in their order, and
    the parameters; not the id, the caller, the deadline or the priority, which no answer depends on.

    Args:
        request: with its inputs in the configuration's order.
        digest: of the model version's files.
    """
    if sum([len(tensor.data) for tensor in request.inputs]) > MAX_INPUT_BYTES:
        return None
    total = hashlib.blake2b(digest_size=32)
    head = [request.model, request.version, digest, str(len(request.inputs)), *request.outputs, ""]
    head += [f"{name}={type(value).__name__}:{value}" for name, value in sorted(request.parameters.items())]
    total.update(_framed(head))
    for tensor in request.inputs:
        total.update(_framed((tensor.name, tensor.datatype, ",".join(map(str, tensor.shape)), str(len(tensor.data)))))
        total.update(tensor.data)
    return total.digest()


def _framed(texts: Iterable[str]) -> bytes:
    """The texts with their number and lengths in front: different lists never give the same bytes."""
    encoded = [text.encode(errors="surrogatepass") for text in texts]
    return b"".join([len(encoded).to_bytes(4), *[part for text in encoded for part in (len(text).to_bytes(8), text)]])
