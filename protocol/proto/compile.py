"""`python -m protocol.proto.compile` compiles each .proto of this folder to a descriptor set beside it (needs grpcio-tools)."""

from __future__ import annotations

import importlib.resources
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def descriptor_set(source: Path) -> bytes:
    """The serialized FileDescriptorSet of a .proto file and what it imports.

    Raises:
        RuntimeError: protoc refused it; its messages are on standard error.
    """
    from grpc_tools import protoc  # type: ignore[import-untyped]

    well_known = str(importlib.resources.files("grpc_tools") / "_proto")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "set.binpb"
        arguments = ["protoc", f"-I{source.parent}", f"-I{well_known}", "--include_imports"]
        if protoc.main([*arguments, f"--descriptor_set_out={target}", source.name]) != 0:
            raise RuntimeError(f"protoc could not compile {source.name}")
        return target.read_bytes()


def main(folder: Path = HERE) -> None:
    """Compile every .proto of a folder, and print each one's size."""
    for source in sorted(folder.glob("*.proto")):
        target = source.with_suffix(".binpb")
        target.write_bytes(descriptor_set(source))
        sys.stdout.write(f"{target.name}: {target.stat().st_size} bytes\n")


if __name__ == "__main__":  # pragma: no cover - two lines, run by hand
    main()
