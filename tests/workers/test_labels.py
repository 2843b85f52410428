"""Label files of outputs: read at load, bounded, announced."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.errors import ConfigError
from protocol.messages import ModelState
from protocol.model_config import ModelConfig
from protocol.model_config.pbtxt import parse
from tests.workers.fleet import IDENTITY, fleet, write_model
from tests.workers.test_checking import TENSORS, verdict
from tests.workers.test_models import state
from workers.checking.compatibility import Status
from workers.repository import labels
from workers.repository.labels import read_labels

LABELLED = IDENTITY.replace("dims: [ -1 ] } ]\n", 'dims: [ -1 ] label_filename: "names.txt" } ]\n').replace(
    ' label_filename: "names.txt"', "", 1
)


def config(name: str = "names.txt") -> ModelConfig:
    return parse(LABELLED.replace("names.txt", name), "config.pbtxt", "m")


def test_one_name_per_line_as_triton_reads_them(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"cat\r\ndog\n\n\xc3\xa9t\xc3\xa9")
    assert read_labels(config(), tmp_path) == {"Y": ("cat\r", "dog", "", "été")}


def test_a_final_line_break_ends_the_last_name(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert read_labels(config(), tmp_path) == {"Y": ("cat", "dog")}


def test_what_cannot_be_read_is_said_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "names.txt"
    with pytest.raises(ConfigError, match=f"failed to open text file for read {file}: No such file or directory"):
        read_labels(config(), tmp_path)
    file.write_bytes(b"a\nb\n\xff\n")
    with pytest.raises(ConfigError, match="is not UTF-8 in line 3"):
        read_labels(config(), tmp_path)
    monkeypatch.setattr(labels, "MAX_LABELS", 1)
    file.write_text("a\nb")
    with pytest.raises(ConfigError, match="has 2 lines; at most 1"):
        read_labels(config(), tmp_path)
    monkeypatch.setattr(labels, "MAX_BYTES", 2)
    with pytest.raises(ConfigError, match="is too large"):
        read_labels(config(), tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="is not a file"):
        read_labels(config("folder"), tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_a_file_outside_of_the_models_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"'label_filename' of model output 'Y' of m is .*inside the model's folder"):
        config(name)


async def test_the_names_are_announced(tmp_path: Path) -> None:
    (write_model(tmp_path, "m", LABELLED) / "names.txt").write_text("cat\ndog\n")
    async with fleet(tmp_path) as f:
        await f.worker()
        assert state(f, "m").labels == {"Y": ("cat", "dog")}


async def test_a_missing_file_fails_the_load_and_the_check(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m", LABELLED)
    async with fleet(tmp_path / "models") as f:
        await f.worker(exit_on_error=False)
        entry = state(f, "m")
    found = verdict(
        tmp_path / "checked", "max_batch_size: 0" + TENSORS.replace('"Y" data', '"Y" label_filename: "l" data')
    )

    assert entry.state is ModelState.UNAVAILABLE
    assert "failed to open text file for read" in entry.reason
    assert (found.status, len(found.reasons)) == (Status.REFUSED, 1)
    assert "failed to open text file for read" in found.reasons[0]
