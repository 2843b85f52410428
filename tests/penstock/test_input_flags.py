"""What `-i NAME=JSON` and `--shape NAME=SIZES` mean, and what is said when they mean nothing."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest

from penstock.cli.input_flags import certain, each_once, missing, parse_input, parse_shape
from protocol.errors import InvalidArgument

INPUTS = {
    "image": {"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]},
    "text": {"name": "text", "datatype": "BYTES", "shape": [-1, 1]},
    "it's": {"name": "it's", "datatype": "INT64", "shape": [2]},
    "rate": {"name": "rate", "datatype": "INT64", "shape": []},
}


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("text=[hello]", ("""--input text: '[hello]' is not JSON, from character 2 on; """
                         """write -i 'text=[["text"]]'""")),
        ("text=hello", """write -i 'text=[["text"]]'"""),
        ("text=[[7]]", ("""--input 'text': the JSON of datatype BYTES must hold strings; other bytes need the binary format; """
                       """write -i 'text=[["text"]]'""")),
        ("text=", "--input text: there is no value; write -i"),
        ("txt=[[1]]", "--input: the model has no input 'txt'; it has image, text, it's, rate; did you mean 'text'?"),
        ("text=[\"a\"]", ("--input text: its shape is [1], and the model takes [-1, 1] (-1 is any size); the first size counts "
                         "rows: put one more pair of brackets around it")),
        ("image=[[[[1]]]]", ("its shape is [1, 1, 1, 1], and the model takes [-1, 1, 8, 8] (-1 is any size); "
                            "write -i 'image=[[[[0.5, …]]]]' with all 64 values of shape [1, 1, 8, 8]")),
        ("it's=[1,2,3]", "its shape is [3], and the model takes [2]; write -i 'it'\"'\"'s=[1,1]'"),
        ("it's=[1.5,2]", "must hold only values of datatype INT64"),
        ("rate=[16000]", "its shape is [1], and the model takes []; write -i rate=1"),
        ("image", "--input 'image' must be NAME=JSON"),
    ],
)  # fmt: skip
def test_a_wrong_input_is_a_sentence_with_an_example(flag: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_input(flag, INPUTS)

    assert said in refused.value.message


@pytest.mark.parametrize("flag", ["text=hello", "it's=[1]", "rate=x"])
def test_the_example_is_right_as_a_shell_reads_it(flag: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_input(flag, INPUTS)
    found = re.search(r"write (-i .*)$", refused.value.message)
    assert found is not None

    name, array = parse_input(shlex.split(found[1])[1], INPUTS)

    assert name == flag.partition("=")[0]
    assert array.size > 0


def test_a_shape_is_sizes_with_commas_or_nothing() -> None:
    assert parse_shape("image=4,1,8,8", INPUTS) == ("image", (4, 1, 8, 8))
    assert parse_shape("image=[4, 1, 8, 8]", INPUTS) == ("image", (4, 1, 8, 8))
    assert parse_shape("rate=", INPUTS) == ("rate", ())


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("image", "--shape 'image' must be NAME=SIZES; for example --shape image=1,1,8,8"),
        ("image=1,x", "--shape image: '1,x' must be sizes with commas; for example --shape image=1,1,8,8"),
        ("image=1,-1,8,8", "must be sizes with commas"),
        ("imag=1", "the model has no input 'imag'; it has image, text, it's, rate; did you mean 'image'?"),
        ("image=1,8,8", "its shape is [1, 8, 8], and the model takes [-1, 1, 8, 8] (-1 is any size)"),
        ("text=99999999999,1", "more than a request can"),
    ],
)
def test_a_wrong_shape_is_a_sentence(flag: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_shape(flag, INPUTS)

    assert said in refused.value.message


def test_an_input_is_given_once() -> None:
    assert each_once([("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    with pytest.raises(InvalidArgument, match="input 'a' is given twice"):
        each_once([("a", 1), ("b", 2), ("a", 1)])


def test_missing_inputs_are_named_as_flags() -> None:
    assert missing(["image"], INPUTS, INPUTS) == (
        "the model needs the inputs 'text', 'it's', 'rate': give -i 'text=[[\"text\"]]' -i 'it'\"'\"'s=[1,1]' -i rate=1, "
        "or let --random make up the rest"
    )
    assert missing(INPUTS, INPUTS, INPUTS) == ""


def test_single_integers_may_have_to_be_certain_ones() -> None:
    batched = {"name": "rate", "datatype": "INT64", "shape": [-1, 1]}

    assert certain(INPUTS.values(), batches=False) == "-i rate=NUMBER"
    assert certain([batched], batches=True) == "-i 'rate=[[NUMBER]]'"
    assert certain([batched], batches=False) == ""


def test_a_shape_of_values_is_kept() -> None:
    assert parse_input("rate=16000", INPUTS)[1] == np.int64(16000)


@pytest.mark.parametrize("shape", [[1], [1, 1]])
def test_a_number_is_one_element(shape: list[int]) -> None:
    name, array = parse_input("sr=16000", {"sr": {"name": "sr", "datatype": "INT64", "shape": shape}})

    assert (name, array.tolist()) == ("sr", np.full(shape, 16000).tolist())
