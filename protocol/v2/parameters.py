"""The parameters of a V2 request, and of its tensors where they name a part of shared memory. Pure."""

from __future__ import annotations

from typing import Final, cast

from protocol.errors import CodecError, quoted
from protocol.messages import Parameters

MAX_PARAMETERS: Final = 256
_RESERVED: Final = "triton_"


def check_parameters(value: object, where: str) -> Parameters:
    """Parameters: an object of strings, integers, booleans and floats under names that are not reserved.

    Raises:
        CodecError: naming the parameter.
    """
    if type(value) is not dict or len(value) > MAX_PARAMETERS:
        raise CodecError(f"'parameters' of {where} must be an object of at most {MAX_PARAMETERS} entries")
    for key, item in value.items():
        if type(key) is not str:
            raise CodecError(f"parameter names of {where} must be strings")
        if key.startswith(_RESERVED):
            raise CodecError(
                "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
            )
        if type(item) not in (str, int, bool, float):
            raise CodecError(
                f"parameter '{key}' has invalid type. It should be either 'int', 'bool', 'float' or 'string'."
            )
    return cast("Parameters", value)


def check_sequence(parameters: Parameters) -> None:
    """Check the types of sequence parameters, even for models without sequences, which ignore them.

    Raises:
        CodecError: naming the parameter.
    """
    for name in ("sequence_start", "sequence_end"):
        value = parameters.get(name, False)
        if type(value) is not bool:
            raise CodecError(f"parameter '{name}' must be a boolean, not {quoted(value)}")
    value = parameters.get("sequence_id", 0)
    if not (type(value) is str or (type(value) is int and value >= 0)):
        raise CodecError(f"parameter 'sequence_id' must be an unsigned integer or a string, not {quoted(value)}")


def region_part(parameters: dict[str, object], where: str) -> tuple[str, int, int]:
    """Region, offset and size of the parameters `shared_memory_…`."""
    region = parameters.get("shared_memory_region")
    if type(region) is not str:
        raise CodecError(f"parameter 'shared_memory_region' of {where} must be a string, not {quoted(region)}")
    numbers = []
    for name, default in (("shared_memory_offset", 0), ("shared_memory_byte_size", None)):
        number = parameters.get(name, default)
        if type(number) is not int or number < 0:
            raise CodecError(f"parameter '{name}' of {where} must be an unsigned integer, not {quoted(number)}")
        numbers.append(number)
    return region, numbers[0], numbers[1]
