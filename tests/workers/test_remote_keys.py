from __future__ import annotations

import os
from pathlib import PurePosixPath

import hypothesis.strategies as st
import pytest
from hypothesis import given

from penstock.cli.repositories import RepositoryType
from protocol.errors import ConfigError
from protocol.model_config import ModelConfig
from workers.repository.allow_list import parse_digests
from workers.repository.remote import keys
from workers.repository.remote.address import is_remote, parse
from workers.repository.remote.keys import RemoteObject, chosen_versions, folders_of, models_of

_PARTS = st.sampled_from(
    ["m", "1", "2", "model.onnx", "config.pbtxt", "..", ".", "", "a\nb", "a\\b", "\x00", ".git", "é", "x" * 300]
)
_KEYS = st.lists(_PARTS, min_size=1, max_size=20).map("/".join) | st.text(max_size=30)


@given(listed=st.lists(_KEYS, max_size=30), prefix=st.sampled_from(["", "prod", "a/b"]))
def test_whatever_keys_there_are_paths_are_plain_and_below_their_model(listed: list[str], prefix: str) -> None:
    start = f"{prefix}/" if prefix else ""
    try:
        found = models_of([RemoteObject(start + key, 1, "e") for key in listed], prefix)
    except ConfigError:
        return

    for name, model in found.models.items():
        assert name not in ("", ".", "..")
        assert "/" not in name
        if model.reason:
            continue
        for path in [*model.files, *folders_of(model.files, model.folders)]:
            parts = path.split("/")
            assert all(
                part not in ("", ".", "..") and part.isprintable() and len(part.encode()) <= 255 for part in parts
            )
            assert not PurePosixPath(path).is_absolute()
        assert not set(folders_of(model.files, model.folders)) & set(model.files)
        assert set(chosen_versions(model, ModelConfig(name=name))) <= set(model.files)


def test_counts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_OBJECTS", 10)
    monkeypatch.setattr(keys, "MAX_FILES", 5)
    many = [RemoteObject(f"m/1/{number}", 1, "e") for number in range(11)]

    assert "more than 5 objects" in models_of(many[:10], "").models["m"].reason
    with pytest.raises(ConfigError, match="more than 10 objects"):
        models_of(many, "")


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (["m/model.onnx"], "move 'm/model.onnx' to 'm/1/model.onnx'"),
        (["m/v1/model.onnx"], "rename 'm/v1' to 'm/1'"),
        (["3/model.onnx", "3/1/model.onnx"], "is a version's folder"),
    ],
)
def test_what_is_laid_out_wrongly_is_told(listed: list[str], words: str) -> None:
    found = models_of([RemoteObject(key, 1, "e") for key in listed], "")

    assert any(words in model.reason for model in found.models.values())


@pytest.mark.parametrize(
    ("text", "endpoint", "bucket", "prefix"),
    [
        ("s3://bucket", "", "bucket", ""),
        ("s3://bucket/a/b/", "", "bucket", "a/b"),
        ("s3://https://host:9000/bucket/a", "https://host:9000", "bucket", "a"),
        ("s3://http://[::1]:9000/bucket/a", "http://[::1]:9000", "bucket", "a"),
        ("s3://https://store.example/bucket", "https://store.example", "bucket", ""),
        ("s3://localhost:9000/bucket/a", "http://localhost:9000", "bucket", "a"),
    ],
)
def test_addresses_as_triton_writes_them(text: str, endpoint: str, bucket: str, prefix: str) -> None:
    found = parse(text)

    assert (found.endpoint, found.bucket, found.prefix) == (endpoint, bucket, prefix)
    assert parse(str(found)) == found
    assert is_remote(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://", "s3:///x", "s3://b", "gs://bucket/x", "as://x/y", "https://host/bucket", "s3://https://host", "s3://bucket/../x", "s3://bucket/a//b",
        "s3://bucket/\x07", "s3://ftp://host/bucket", "s3://https://us er@host/bucket", "s3://bucket/a b", "s3://https://host:x/bucket/a",
    ],
)  # fmt: skip
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


@given(text=st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for candidate in (text, f"s3://{text}"):
        try:
            found = parse(candidate)
        except ConfigError:
            continue
        assert parse(str(found)) == found


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("s3://https://key:pass-word@host/bucket")

    assert "pass-word" not in caught.value.message


@pytest.mark.parametrize(
    "entries",
    [
        ["/models"], ["/models", "/more"], ["s3://bucket/a", "/models"], ["/models", "s3://https://host:9000/bucket/a", "s3://bucket"],
        ["s3://host:9000/bucket/a", "s3://http://[::1]:80/bucket/a", "/x"],
    ],
)  # fmt: skip
def test_an_environment_variable_may_mix_folders_and_urls(entries: list[str]) -> None:
    assert list(RepositoryType().split_envvar_value(os.pathsep.join(entries))) == entries


def test_an_allow_list_is_digests_and_remarks() -> None:
    digest = "AB" * 32

    assert parse_digests(f"# reviewed\n\n{digest}  digits 3\n{'cd' * 32} # new\n", "f") == {"ab" * 32, "cd" * 32}
    with pytest.raises(ConfigError, match="line 2 of 'f'"):
        parse_digests(f"{digest}\nabc", "f")
