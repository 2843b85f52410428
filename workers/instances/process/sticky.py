"""Errors after which a process is of no use to anybody: CUDA refuses every further call in it. Pure.

CUDA's documentation says of these errors that the process must be terminated and started again; everything else that a model raises
leaves it as it was.
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
"""In the words of the runtime, the driver and those who wrap them."""


def is_sticky(text: str) -> bool:
    """Whether an error with this text has spoilt its process."""
    return "cuda" in text.lower() and STICKY.search(text) is not None
