from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.backends import pb_utils
from workers.checking.pb_usage import unsupported_uses

IMPORT = "import triton_python_backend_utils as pb\n"


@pytest.mark.parametrize(
    ("source", "uses"),
    [
        ("pb.Tensor('Y', x)\npb.InferenceResponse([])\npb.get_input_tensor_by_name(r, 'X')", []),
        ("pb.InferenceRequest(model_name='m').exec()", ["pb.InferenceRequest (calls of other models)"]),
        ("def f(r: pb.InferenceRequest): ...", []),
        ("request.get_response_sender().send(x)", ["get_response_sender (decoupled responses)"]),
        ("pb.PreferredMemory(1)\npb.PreferredMemory(2)\npb.load_model('m')", ["pb.PreferredMemory", "pb.load_model"]),
        ("other.load_model('m')", []),
    ],
)
def test_what_is_not_offered_is_named(source: str, uses: list[str]) -> None:
    assert unsupported_uses(IMPORT + source, dir(pb_utils)) == uses


def test_a_source_without_tritons_module_uses_nothing_of_it() -> None:
    assert unsupported_uses("socket.get_response_sender()", dir(pb_utils)) == []


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    unsupported_uses(IMPORT + text, dir(pb_utils))
