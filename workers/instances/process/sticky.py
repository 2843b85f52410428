"""Errors after which CUDA refuses every further call of the process. Pure.

After these, CUDA's documentation says, the process must be terminated and restarted; other errors of a model leave it usable.
"""

from __future__ import annotations

import re
from typing import Final

STICKY: Final = re.compile(
    r"device-side assert|illegal memory access|illegal instruction was encountered|misaligned address was encountered"
    r"|unspecified launch failure|hardware stack error|uncorrectable ECC error|invalid program counter|address space mismatch"
    r"|cudaError(Assert|IllegalAddress|IllegalInstruction|MisalignedAddress|LaunchFailure|HardwareStackError|ECCUncorrectable"
    r"|InvalidPc|InvalidAddressSpace)"
    r"|CUDA_ERROR_(ASSERT|ILLEGAL_ADDRESS|ILLEGAL_INSTRUCTION|MISALIGNED_ADDRESS|LAUNCH_FAILED|HARDWARE_STACK_ERROR"
    r"|ECC_UNCORRECTABLE|INVALID_PC|INVALID_ADDRESS_SPACE)"
)
"""The wording of the runtime, the driver and their wrappers."""


def is_sticky(text: str) -> bool:
    """Whether an error with this text has made its process unusable."""
    return "cuda" in text.lower() and STICKY.search(text) is not None
