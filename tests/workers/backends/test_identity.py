from pathlib import Path

import numpy as np
import pytest

from protocol.errors import ConfigError
from protocol.messages import InferRequest
from protocol.model_config import Kind
from protocol.model_config.pbtxt import parse
from protocol.tensors import from_array
from workers.backends.identity import IdentityBackend, IdentityInstance
from workers.repository.placement import Placement
from workers.repository.version import ModelVersion

CONFIG = """
backend: "identity" max_batch_size: 4
input [ { name: "A" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "B" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "B" data_type: TYPE_STRING dims: [ 1 ] } ]
"""


def load(config: str = CONFIG) -> IdentityInstance:
    version = ModelVersion("m", 1, Path("/nowhere"), Path("/nowhere"), parse(config, "config.pbtxt", "m"), "")
    assert IdentityBackend().inspect(version) is None
    return IdentityBackend().load(version, Placement("m_0_0", Kind.CPU, None, 1))


def test_output_i_is_input_i() -> None:
    instance = load()
    inputs = (from_array("A", np.array([[1, 2]], np.float32)), from_array("B", np.array([[b"x"]], object)))
    request = InferRequest("r", "m", "1", inputs)
    (share,) = instance.split([request], instance.run(instance.prepare([request])))
    assert isinstance(share, tuple)
    assert [(tensor.name, tensor.array().tolist()) for tensor in share] == [("Y", [[1, 2]]), ("B", [[b"x"]])]
    assert instance.loop_safe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] }, ', "output [ "), "as many outputs as inputs"),
        (
            ('"Y" data_type: TYPE_FP32', '"Y" data_type: TYPE_INT8'),
            "output 'Y' must have the datatype and dims of input 'A'",
        ),
        (
            ('"A" data_type: TYPE_FP32 dims: [ 2 ]', '"A" data_type: TYPE_FP32 dims: [ 2 ] optional: true'),
            "not be optional",
        ),
        (
            (
                "max_batch_size: 4",
                'max_batch_size: 4 parameters { key: "execute_delay_ms" value { string_value: "-1" } }',
            ),
            "must be 0 to",
        ),
    ],
)
def test_what_cannot_be_an_identity_is_refused(change: tuple[str, str], message: str) -> None:
    assert change[0] in CONFIG
    with pytest.raises(ConfigError, match=message):
        load(CONFIG.replace(*change))


def test_a_delayed_one_stays_on_its_thread() -> None:
    delayed = CONFIG + 'parameters { key: "execute_delay_ms" value { string_value: "1" } }'
    assert not load(delayed).loop_safe
