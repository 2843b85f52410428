"""Names of single model files: none is served in place of another."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from workers.repository.model_files import ModelFile, parse, require_distinct
from workers.settings import WorkerSettings


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("a/model.onnx", "model", "a/model.onnx"),
        ("wine=a/model.onnx", "wine", "a/model.onnx"),
        ("runs/lr=0.1/model.onnx", "model", "runs/lr=0.1/model.onnx"),
        ("wine=runs/lr=0.1/model.onnx", "wine", "runs/lr=0.1/model.onnx"),
        ("./lr=0.1.onnx", "lr=0.1", "lr=0.1.onnx"),
        ("Wein Güte=m.pt", "Wein Güte", "m.pt"),
    ],
)
def test_a_file_has_the_name_that_it_is_given_or_its_own(text: str, name: str, path: str) -> None:
    assert parse(text) == ModelFile(Path(path), name)


def test_a_file_with_an_equals_sign_is_told_from_a_name_by_being_there() -> None:
    assert parse("lr=0.1.onnx", {"lr=0.1.onnx"}.__contains__) == ModelFile(Path("lr=0.1.onnx"))
    assert parse("lr=0.1.onnx", {"0.1.onnx"}.__contains__) == ModelFile(Path("0.1.onnx"), "lr")
    assert parse("lr=0.1.onnx", {"lr=0.1.onnx", "0.1.onnx"}.__contains__) == ModelFile(Path("0.1.onnx"), "lr")


@pytest.mark.parametrize("text", ["=model.onnx", "wine="])
def test_half_of_a_name_and_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be FILE or NAME=FILE"):
        parse(text)


def test_two_files_of_one_name_are_refused_with_the_line_that_serves_both() -> None:
    files = [ModelFile(Path("a/model.onnx")), ModelFile(Path("b/model.onnx"))]

    with pytest.raises(ConfigError) as refused:
        require_distinct(files)

    assert "'a/model.onnx' and 'b/model.onnx' would both be served as 'model'" in refused.value.message
    proposed = refused.value.message.rpartition(": ")[2]
    assert proposed == "a=a/model.onnx b=b/model.onnx"
    require_distinct([parse(text) for text in proposed.split()])


@pytest.mark.parametrize(
    ("first", "second", "proposed"),
    [
        ("x/1/model.onnx", "y/1/model.onnx", "x=x/1/model.onnx y=y/1/model.onnx"),
        ("model.onnx", "model.onnx", "model-2=model.onnx model-3=model.onnx"),
        ("model.onnx", "model.pt", "model-2=model.onnx model-3=model.pt"),
    ],
)
def test_what_is_proposed_is_accepted(first: str, second: str, proposed: str) -> None:
    with pytest.raises(ConfigError) as refused:
        require_distinct([parse(first), parse(second)])

    assert refused.value.message.endswith(f": {proposed}")
    require_distinct([parse(text) for text in proposed.split()])


def test_the_same_file_twice_is_said_to_be_given_twice() -> None:
    with pytest.raises(ConfigError, match=r"'m\.onnx', given twice, would both be served as 'm'"):
        require_distinct([parse("m.onnx"), parse("m.onnx")])


def test_a_model_of_the_repository_is_not_served_in_the_place_of_a_file() -> None:
    with pytest.raises(ConfigError, match=r"also a model of the repository; .*: new=new/digits.onnx"):
        require_distinct([parse("new/digits.onnx")], ["digits"])


@pytest.mark.parametrize("name", ["x" * 300, "a\nb", "..", "a\x1b[31m", "\udcff"])
def test_a_name_that_cannot_be_a_models_is_refused_with_the_way_out(name: str) -> None:
    with pytest.raises(ConfigError, match="NAME=FILE") as refused:
        require_distinct([ModelFile(Path("m.onnx"), name)])

    refused.value.message.encode()
    assert refused.value.message.isprintable()


def test_a_worker_cannot_be_told_to_serve_two_files_of_one_name() -> None:
    with pytest.raises(ConfigError, match="would both be served as 'model'"):
        WorkerSettings(model_file=(ModelFile(Path("a/model.onnx")), ModelFile(Path("b/model.onnx"))))


parts = st.from_regex(r"[a-z=. ]{1,6}", fullmatch=True).filter(lambda part: part.strip(".") != "")


@given(
    st.lists(parts, min_size=1, max_size=3), st.booleans(), st.just("") | st.from_regex(r"[a-z. ]{1,5}", fullmatch=True)
)
def test_what_is_written_is_read_back(path: list[str], absolute: bool, name: str) -> None:
    file = ModelFile(Path("/" if absolute else "") / "/".join(path), name)

    assert parse(str(file)) == file
