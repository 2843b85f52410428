"""Repositories in a real S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import ConfigError
from tests.workers.object_store import BUCKET, CREDENTIALS, ObjectStore, object_store
from workers.repository.remote import fetching
from workers.repository.remote.address import parse
from workers.repository.remote.cache import Cache
from workers.repository.remote.mirror import Mirror, Mirrored
from workers.repository.remote.s3 import S3Store
from workers.repository.scan import scan_repositories

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
MODEL = """
class Model:
    inputs = {"NUMBER": ("INT64", [1])}
    outputs = {"NUMBER": ("INT64", [1])}

    def predict(self, NUMBER):
        return {"NUMBER": NUMBER + %d}
"""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fetching, "_FIRST", 0.01)
    monkeypatch.setattr(fetching, "_LONGEST", 0.05)
    with object_store() as made:
        yield made


def mirror(store: ObjectStore, cache: Path, limit: int = 0) -> Mirror:
    return Mirror(S3Store(parse(store.url)), Cache(cache, limit))


def contents(found: Mirrored) -> dict[str, bytes]:
    """By model and path, what the folders have."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for folder in found.folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_repository_is_mirrored_once_and_then_only_what_has_changed(store: ObjectStore, tmp_path: Path) -> None:
    store.put("prod/m/1/model.py", MODEL % 1)
    store.put("prod/m/config.pbtxt", "max_batch_size: 4")
    store.put("prod/other/1/model.py", MODEL % 2)
    store.put("elsewhere/x/1/model.py", "no")
    one = mirror(store, tmp_path)

    first = one.refresh()
    count, lists = len(store.proxy.gets), store.proxy.lists
    again = one.refresh()

    assert contents(first) == {
        "m/1/model.py": (MODEL % 1).encode(), "m/config.pbtxt": b"max_batch_size: 4", "other/1/model.py": (MODEL % 2).encode(),
    }  # fmt: skip
    assert again == first
    assert (count, len(store.proxy.gets), store.proxy.lists) == (3, 3, lists + 1)
    assert [folder.name for folder in scan_repositories(first.folders)] == ["m", "other"]
    assert not first.refused

    store.put("prod/m/1/model.py", MODEL % 7)
    changed = one.refresh()

    assert contents(changed)["m/1/model.py"] == (MODEL % 7).encode()
    assert contents(first)["m/1/model.py"] == (MODEL % 1).encode()  # what is loaded keeps its files
    assert len(store.proxy.gets) == 4

    store.delete("prod/other/1/model.py")
    assert set(contents(one.refresh())) == {"m/1/model.py", "m/config.pbtxt"}


def test_of_a_model_that_is_not_wanted_only_the_configuration_is_fetched(store: ObjectStore, tmp_path: Path) -> None:
    store.put("prod/wanted/1/model.py", MODEL % 1)
    store.put("prod/other/config.pbtxt", "version_policy { specific { versions: [ 2 ] } }")
    store.put("prod/other/1/model.py", "x" * 1000)
    store.put("prod/other/2/model.py", "x" * 100)
    store.put("prod/plain/1/model.onnx", "x" * 50)
    one = mirror(store, tmp_path)

    first = one.refresh(lambda name: name == "wanted")
    again = one.refresh(lambda name: name == "wanted")

    assert set(contents(first)) == {"wanted/1/model.py"}
    assert first.sizes == again.sizes == {"other": 100, "plain": 50}
    assert sorted(key for key, _ in store.proxy.gets) == [
        "prod/other/config.pbtxt", "prod/wanted/1/model.py",
    ]  # fmt: skip
    assert set(contents(one.refresh(lambda name: name != "plain"))) == {
        "wanted/1/model.py", "other/config.pbtxt", "other/2/model.py",
    }  # fmt: skip


def test_only_versions_that_the_policy_selects_are_fetched(store: ObjectStore, tmp_path: Path) -> None:
    for version in range(1, 6):
        store.put(f"prod/m/{version}/model.py", MODEL % version)
        store.put(f"prod/two/{version}/model.py", MODEL % version)
    store.put("prod/two/config.pbtxt", "version_policy { specific { versions: [ 2, 4 ] } }")

    found = mirror(store, tmp_path).refresh()

    assert set(contents(found)) == {"m/5/model.py", "two/2/model.py", "two/4/model.py", "two/config.pbtxt"}
    assert len(store.proxy.gets) == 4


def test_folder_markers_are_folders_and_what_is_no_model_is_not_fetched(store: ObjectStore, tmp_path: Path) -> None:
    store.put("prod/", b"")
    store.put("prod/ensemble/1/", b"")
    store.put("prod/ensemble/config.pbtxt", "platform: 'ensemble'")
    store.put("prod/data/huge.bin", b"x" * 1000)
    store.put("prod/.git/config", b"x")
    store.put("prod/readme.txt", b"x")

    found = mirror(store, tmp_path).refresh()

    (folder,) = found.folders
    assert (folder / "ensemble" / "1").is_dir()
    assert [key for key, _ in store.proxy.gets] == ["prod/ensemble/config.pbtxt"]
    assert any("readme.txt" in line for line in found.ignored)
    assert any("'data'" in line for line in found.ignored)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("prod/m/1/../../../../evil", "a part '..'"),
        ("prod/m/../../evil", "a part '..'"),
        ("prod/m//evil", "a part ''"),
        ("prod/m/./evil", "a part '.'"),
        ("prod/m/1/a\nb", "control character"),
        ("prod/m/1/a\\b", "backslash"),
        ("prod/m/1/" + "n" * 256, "more than 255 bytes"),
        ("prod/m/" + "d/" * 20 + "f", "folders deep"),
        ("prod/m/1/model.py/inner", "a file and a folder"),
        ("prod/m/1", "a file and a folder"),
    ],
)
def test_keys_that_make_no_folder_refuse_their_model_alone(
    store: ObjectStore, tmp_path: Path, key: str, words: str
) -> None:
    store.put("prod/m/1/model.py", MODEL % 1)
    store.put("prod/fine/1/model.py", MODEL % 1)
    store.client.meta.config.parameter_validation = False
    objects = S3Store(parse(store.url))
    listed = objects.objects()
    strange = type(listed[0])(key, 4, "e")
    objects.objects = lambda: [*listed, strange]  # type: ignore[method-assign]  # boto3 itself would rewrite some of these keys
    before = set(tmp_path.iterdir())

    found = Mirror(objects, Cache(tmp_path / "cache")).refresh()

    assert words in found.refused["m"]
    assert set(contents(found)) == {"fine/1/model.py"}
    assert set(tmp_path.iterdir()) - before == {tmp_path / "cache"}


def test_a_body_that_ends_early_is_resumed_where_it_stopped(store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    store.put("prod/m/1/model.onnx", content)
    store.proxy.cut = [1_000_000, 500_000]

    found = mirror(store, tmp_path).refresh()

    assert contents(found)["m/1/model.onnx"] == content
    ranges = [given for key, given in store.proxy.gets]
    assert ranges[0] == ""
    assert all(given.startswith("bytes=") for given in ranges[1:])
    assert len(ranges) == 3


def test_bytes_that_are_not_those_of_the_etag_are_fetched_again_or_refused(store: ObjectStore, tmp_path: Path) -> None:
    store.put("prod/m/1/model.onnx", b"the right bytes")
    store.proxy.corrupt = 1
    one = mirror(store, tmp_path)
    assert contents(one.refresh())["m/1/model.onnx"] == b"the right bytes"

    store.put("prod/m/1/model.onnx", b"others")
    store.proxy.corrupt = 1000
    bad = one.refresh()

    assert "its MD5 is" in bad.refused["m"]
    assert contents(bad) == {}
    store.proxy.corrupt = 0
    assert contents(one.refresh())["m/1/model.onnx"] == b"others"


def test_an_object_that_changes_while_it_is_fetched_is_never_mixed(store: ObjectStore, tmp_path: Path) -> None:
    store.put("prod/m/config.pbtxt", "version_policy { all { } }")
    store.put("prod/m/1/model.py", MODEL % 1)
    store.put("prod/m/1/weights.bin", b"1" * 100)
    changes = iter(range(2, 100))

    def change(key: str) -> None:
        if key.endswith("weights.bin") and (number := next(changes)) < 4:
            store.put("prod/m/1/model.py", MODEL % number)
            store.put("prod/m/1/weights.bin", bytes([48 + number]) * 100)

    store.proxy.change = change
    found = mirror(store, tmp_path).refresh()

    files = contents(found)
    assert files["m/1/model.py"] == (MODEL % 3).encode()
    assert files["m/1/weights.bin"] == b"3" * 100

    store.put("prod/m/1/model.py", "0")
    store.proxy.change = lambda key: store.put("prod/m/1/model.py", os.urandom(10))
    restless = mirror(store, tmp_path).refresh()
    assert "change" in restless.refused["m"]


def test_a_store_that_is_away_is_named_and_leaves_the_folders_alone(store: ObjectStore, tmp_path: Path) -> None:
    store.put("prod/m/1/model.py", MODEL % 1)
    one = mirror(store, tmp_path)
    found = one.refresh()
    store.proxy.down = True

    with pytest.raises(ConfigError) as caught:
        one.refresh()

    assert f"bucket '{BUCKET}' at http://127.0.0.1:{store.proxy.port} cannot be read" in caught.value.message
    assert "hidden-secret" not in caught.value.message
    assert contents(found)
    store.proxy.down = False
    assert one.refresh() == found
    with pytest.raises(ConfigError, match="NoSuchBucket"):
        S3Store(parse(f"s3://http://127.0.0.1:{store.proxy.port}/none")).objects()


def test_two_processes_at_once_fetch_each_object_once(store: ObjectStore, tmp_path: Path) -> None:
    for number in range(6):
        store.put(f"prod/m{number}/1/model.onnx", os.urandom(200_000))
    store.proxy.slow = 0.02
    results: list[Any] = []

    def run() -> None:
        results.append(contents(mirror(store, tmp_path).refresh()))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 4
    assert all(result == results[0] for result in results)
    assert len(store.proxy.gets) == 6


class Finishing(Cache):
    """Another process finishes with the partial file between its creation here and its opening."""

    def reserve(self, path: Path, size: int) -> None:
        super().reserve(path, size)
        if not self.reserved:
            path.unlink()
        self.reserved = True

    reserved = False


def test_a_partial_file_that_another_process_finishes_with_is_made_anew(store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(2000)
    store.put("prod/m/1/model.onnx", content)
    cache = Finishing(tmp_path)
    found = Mirror(S3Store(parse(store.url)), cache).refresh()
    assert cache.reserved
    assert list(contents(found).values()) == [content]


_CHILD = """
import sys
from pathlib import Path
from workers.repository.remote.address import parse
from workers.repository.remote.cache import Cache
from workers.repository.remote.mirror import Mirror
from workers.repository.remote.s3 import S3Store
print("begun", flush=True)
Mirror(S3Store(parse(sys.argv[1])), Cache(Path(sys.argv[2]))).refresh()
"""


def test_a_process_that_is_killed_in_mid_fetch_leaves_nothing_half_done(store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(8_000_000)
    store.put("prod/m/1/model.onnx", content)
    store.proxy.slow = 0.05
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_CHILD), store.url, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as child:  # fmt: skip
        partial = tmp_path / "partial"
        for _ in range(600):
            sizes = [path.stat().st_size for path in partial.glob("*")] if partial.is_dir() else []
            if any(size > 500_000 for size in sizes):
                break
            threading.Event().wait(0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert not list((tmp_path / "objects").iterdir())
    store.proxy.slow = 0.0

    found = mirror(store, tmp_path).refresh()

    assert contents(found)["m/1/model.onnx"] == content
    assert store.proxy.gets[-1][1].startswith("bytes=")  # resumed
    assert not list(partial.iterdir())
    assert [path.name for path in (tmp_path / "trees").iterdir() if path.name.startswith("building")] == []


def test_a_refresh_ends_soon_when_it_is_stopped_and_keeps_what_came(store: ObjectStore, tmp_path: Path) -> None:
    store.put("prod/m/1/model.onnx", os.urandom(8_000_000))
    store.proxy.slow = 0.05
    one = mirror(store, tmp_path)
    results: list[Mirrored] = []
    thread = threading.Thread(target=lambda: results.append(one.refresh()))
    thread.start()
    while not any(path.stat().st_size for path in (tmp_path / "partial").glob("*")):
        threading.Event().wait(0.01)

    one.stop()
    thread.join(5)

    assert not thread.is_alive()
    assert "ending" in results[0].refused["m"]
    assert [path.stat().st_size > 0 for path in (tmp_path / "partial").iterdir()] == [True]


def test_the_cache_is_bounded_and_the_longest_unused_goes_first(store: ObjectStore, tmp_path: Path) -> None:
    one = mirror(store, tmp_path, limit=2500)
    for number in (1, 2, 3, 4):
        store.put("prod/m/1/model.onnx", bytes([number]) * 1000)
        found = one.refresh()
        assert not found.refused, found.refused
        for former in one._former:
            former.release()
        one._former.clear()
        assert one._cache.used() <= 2500

    store.put("prod/big/1/model.onnx", b"x" * 2600)
    refused = one.refresh()

    assert "raise --model-cache-bytes" in refused.refused["big"]
    assert contents(refused)["m/1/model.onnx"] == bytes([4]) * 1000


def test_what_is_in_use_is_not_removed(store: ObjectStore, tmp_path: Path) -> None:
    store.put("prod/m/1/model.onnx", b"1" * 1000)
    one = mirror(store, tmp_path, limit=1500)
    loaded = one.refresh()
    store.put("prod/m/1/model.onnx", b"2" * 1000)

    assert "raise --model-cache-bytes" in one.refresh().refused["m"]
    assert contents(loaded)["m/1/model.onnx"] == b"1" * 1000


def test_a_damaged_object_is_fetched_again(store: ObjectStore, tmp_path: Path) -> None:
    store.put("prod/m/1/model.onnx", b"1" * 1000)
    mirror(store, tmp_path).refresh()
    (kept,) = (tmp_path / "objects").iterdir()
    kept.chmod(0o600)
    kept.write_bytes(b"0" * 1000)
    for tree in (tmp_path / "trees").glob("*.lock"):
        tree.unlink()
    store.put("prod/n/1/model.onnx", b"1" * 1000)

    found = mirror(store, tmp_path).refresh()

    assert contents(found)["n/1/model.onnx"] == b"1" * 1000
