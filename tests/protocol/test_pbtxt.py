from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, json_format, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from protocol.model_config import ModelConfig, pbtxt
from protocol.model_config.fields import FIELDS
from protocol.proto import DESCRIPTOR_SETS, descriptor, message_class, pool
from protocol.proto.compile import HERE, descriptor_set, main
from tests.config_strategies import configs

CORPUS = Path(__file__).parent / "golden" / "pbtxt"
SERVED = sorted(CORPUS.glob("served/*.pbtxt"))
REFUSED = sorted(CORPUS.glob("refused/*.pbtxt"))
MODEL_CONFIG = descriptor("inference.ModelConfig")

WORDS = st.sampled_from(
    [field.name for field in MODEL_CONFIG.fields]
    + ["name", "dims", "key", "value", "latest", "specific", "versions", "count", "kind", "KIND_GPU", "TYPE_FP32", "TYPE_STRING"]
    + ["{", "}", "[", "]", ":", ",", ";", "<", ">", "/", "#", "\n", '"a"', "'b'", '"', "-1", "0", "7", "1e9", "nan", "0x1F", "true"]
    + ["-", "inf", "99999999999999999999", '"\\xff"', '"\\ud800"', "\ufeff", "é"]
)  # fmt: skip


def format_text(config: ModelConfig) -> str:
    """The configuration as the text of a config.pbtxt."""
    message = message_class("inference.ModelConfig")()
    json_format.ParseDict(config.to_json(), message, descriptor_pool=pool())
    return text_format.MessageToString(message)


class TestCorpus:
    @pytest.mark.parametrize("path", SERVED, ids=lambda path: path.stem)
    def test_a_served_file_has_its_golden_json(self, path: Path) -> None:
        config = pbtxt.parse(path.read_bytes(), folder=path.stem)

        golden = json.loads(path.with_suffix(".json").read_text())

        assert golden == config.to_json()
        assert config == ModelConfig.from_json(golden)

    @pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
    def test_a_refused_file_says_why(self, path: Path) -> None:
        expected = path.read_text().splitlines()[0].removeprefix("# refused: ")

        with pytest.raises(ConfigError) as caught:
            pbtxt.parse(path.read_bytes(), folder="corpus")

        assert expected in caught.value.message
        assert caught.value.message.startswith("config.pbtxt")

    def test_the_corpus_covers_every_row_of_the_table(self) -> None:
        """A row without a file that sets it could change its meaning unnoticed."""
        documents = [_document(path) for path in (*SERVED, *REFUSED) if _document(path) is not None]

        paths = {path for document in documents for path in _paths(document, MODEL_CONFIG)}

        assert not {row for row in FIELDS if not any(path == row or path.startswith(f"{row}.") for path in paths)}


class TestParse:
    def test_a_name_left_out_is_the_folders(self) -> None:
        assert pbtxt.parse("", folder="digits").name == "digits"

    def test_a_batch_size_of_zero_is_stated(self) -> None:
        assert pbtxt.parse("max_batch_size: 0").batch_size_stated
        assert not pbtxt.parse("").batch_size_stated

    def test_a_file_over_the_limit_is_not_parsed(self) -> None:
        text = "#" * (pbtxt.MAX_BYTES + 1)

        with pytest.raises(ConfigError, match=r"has 1048577 bytes; a model configuration has at most 1048576"):
            pbtxt.parse(text)

    def test_bytes_that_are_not_utf8_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"c.pbtxt is not UTF-8 text: .* in position 6"):
            pbtxt.parse(b'name: \xff"', "c.pbtxt")

    @pytest.mark.parametrize(
        "text",
        [
            "[" * 100_000,
            "input {" * 100_000,
            "input <" * 100_000,
            'name: "' + "a" * 1_000_000,
            "max_batch_size: " + "9" * 100_000,
            "max_batch_size: " + "-" * 100_000,
            "\ud800",
            'name: "\\ud800"',
            'name: "\\000"',
            '[type.googleapis.com/inference.ModelConfig] { name: "a" }',
        ],
        ids=lambda text: ascii(text[:16]),
    )
    def test_hostile_text_is_refused_at_once_and_in_a_short_message(self, text: str) -> None:
        started = time.monotonic()

        with pytest.raises(ConfigError) as caught:
            pbtxt.parse(text)

        assert len(caught.value.message) < 600
        assert time.monotonic() - started < 5

    @pytest.mark.parametrize(
        ("string", "bad"),
        [(r"a\8", r"\8"), (r"\\\q", r"\q"), (r"\777", r"\777"), (r"\\q \101\x41\'", ""), (r"\377\n", None), ("#", "")],
    )
    def test_an_escape_that_there_is_not_is_named(self, string: str, bad: str | None) -> None:
        text = f'# a comment may say \\8\nname: "{string}"'
        if bad:
            with pytest.raises(ConfigError, match=re.escape(f"config.pbtxt, line 2: {bad} in a string")):
                pbtxt.document_of(text)
        elif bad is None:
            with pytest.raises(ConfigError, match="utf-8"):
                pbtxt.document_of(text)
        else:
            assert pbtxt.document_of(text)

    @given(st.lists(WORDS, max_size=40).map(" ".join) | st.text() | st.binary())
    def test_whatever_the_text_is_it_raises_nothing_else(self, text: str | bytes) -> None:
        try:
            config = pbtxt.parse(text)
        except ConfigError:
            return
        assert pbtxt.parse(format_text(config)) == config

    @given(st.sampled_from(SERVED).map(Path.read_text), st.data())
    def test_a_damaged_file_raises_nothing_else(self, text: str, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 20)))
        damaged = text[:start] + data.draw(st.text(max_size=5) | WORDS) + text[end:]

        with contextlib.suppress(ConfigError):
            pbtxt.parse(damaged)


class TestFormat:
    @given(configs())
    def test_text_says_all_that_a_configuration_holds(self, config: ModelConfig) -> None:
        assert pbtxt.parse(format_text(config), folder=config.name) == config

    @given(configs())
    def test_json_prints_every_primitive_and_number_as_triton_does(self, config: ModelConfig) -> None:
        """Protobuf's own printer, set to print defaults, finds nothing that `to_json` left out."""
        message = message_class("inference.ModelConfig")()
        json_format.ParseDict(config.to_json(), message, descriptor_pool=pool())
        printed = json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )

        assert _with_numbers(printed, MODEL_CONFIG) == config.to_json()


class TestDescriptors:
    @pytest.mark.parametrize("name", DESCRIPTOR_SETS)
    def test_the_compiled_file_is_that_of_the_text(self, name: str) -> None:
        """Compared as messages: protoc's versions order bytes differently."""
        compiled = HERE / name

        fresh = descriptor_set(compiled.with_suffix(".proto"))

        assert _messages(fresh) == _messages(compiled.read_bytes())

    def test_compiling_writes_a_file_beside_each_text(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.proto").write_text('syntax = "proto3"; message A { string name = 1; }')

        main(tmp_path)

        assert [file.name for file in _messages((tmp_path / "a.binpb").read_bytes()).file] == ["a.proto"]
        assert capsys.readouterr().out.startswith("a.binpb: ")

    def test_a_text_that_does_not_compile_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "a.proto").write_text("message {")

        with pytest.raises(RuntimeError, match=r"protoc could not compile a.proto"):
            descriptor_set(tmp_path / "a.proto")

    def test_our_pool_is_not_the_global_one(self) -> None:
        """Another package's `inference.ModelConfig`, such as Triton's client's, may be in the same process."""
        assert message_class("inference.ModelConfig").DESCRIPTOR.file.pool is pool()

    def test_numbers_are_tritons(self) -> None:
        numbers = {field.name: field.number for field in MODEL_CONFIG.fields}

        assert numbers == {
            "name": 1, "platform": 2, "backend": 17, "runtime": 25, "version_policy": 3, "max_batch_size": 4, "input": 5,
            "output": 6, "batch_input": 20, "batch_output": 21, "optimization": 12, "dynamic_batching": 11,
            "sequence_batching": 13, "ensemble_scheduling": 15, "instance_group": 7, "default_model_filename": 8,
            "cc_model_filenames": 9, "metric_tags": 10, "parameters": 14, "model_warmup": 16, "model_operations": 18,
            "model_transaction_policy": 19, "model_repository_agents": 23, "response_cache": 24, "model_metrics": 26,
        }  # fmt: skip

    def test_every_field_of_the_text_is_in_the_table_once(self) -> None:
        paths = set(_all_paths(MODEL_CONFIG))

        covered = {path: [row for row in FIELDS if path == row or path.startswith(f"{row}.")] for path in paths}

        assert dict.fromkeys(paths, 1) == {path: len(rows) for path, rows in covered.items()}
        assert not {row for row in FIELDS if not any(path == row or path.startswith(f"{row}.") for path in paths)}


def _messages(raw: bytes) -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(raw)


def _document(path: Path) -> dict[str, Any] | None:
    """The file as protobuf alone reads it; None if it is not valid."""
    from google.protobuf import text_format

    message = message_class("inference.ModelConfig")()
    try:
        text_format.Parse(path.read_text(), message, descriptor_pool=pool())
    except text_format.ParseError:
        return None
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _paths(document: dict[str, Any], message: Descriptor, prefix: str = "") -> set[str]:
    """The paths that a document sets, with `*` for the keys of maps."""
    found: set[str] = set()
    for key, value in document.items():
        field, path = message.fields_by_name[key], f"{prefix}{key}"
        found.add(path)
        inner = field.message_type
        items = value if isinstance(value, list) else [value]
        if _is_map(field):
            inner, path, items = inner.fields_by_name["value"].message_type, f"{path}.*", list(value.values())
            found.add(path)
        for item in items if inner is not None else []:
            found |= _paths(item, inner, f"{path}.")
    return found


def _all_paths(message: Descriptor, prefix: str = "") -> list[str]:
    """The paths of all leaves below a message."""
    leaves: list[str] = []
    for field in message.fields:
        path, inner = f"{prefix}{field.name}", field.message_type
        if _is_map(field):
            path, inner = (
                f"{path}.*" if path != "cc_model_filenames" else path,
                inner.fields_by_name["value"].message_type,
            )
        leaves += [path] if inner is None or not inner.fields else _all_paths(inner, f"{path}.")
    return leaves


def _with_numbers(value: Any, message: Descriptor) -> Any:
    """Protobuf's JSON with its 64-bit texts as numbers, and without what the file need not state."""
    result = {}
    for key, item in value.items():
        field = message.fields_by_name[key]
        if _is_map(field):
            inner = field.message_type.fields_by_name["value"].message_type
            result[key] = {name: _with_numbers(one, inner) if inner else one for name, one in item.items()}
        elif field.message_type is not None:
            many = isinstance(item, list)
            result[key] = (
                [_with_numbers(one, field.message_type) for one in item]
                if many
                else _with_numbers(item, field.message_type)
            )
        elif field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64):
            result[key] = [int(one) for one in item] if isinstance(item, list) else int(item)
        else:
            result[key] = item
    return result


def test_a_byte_order_mark_is_passed_over() -> None:
    assert pbtxt.parse(b"\xef\xbb\xbfmax_batch_size: 4", folder="m").max_batch_size == 4


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le"])
def test_text_in_utf_16_is_called_that(encoding: str) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b"\xff\xfe" if encoding == "utf-16-le" else b""

    with pytest.raises(ConfigError, match=r"config.pbtxt is UTF-16 text.*save it as UTF-8") as refused:
        pbtxt.parse(mark + "max_batch_size: 4".encode(encoding), folder="m")

    assert refused.value.message.isprintable()
