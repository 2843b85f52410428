"""The small deciders: spans, ordering, watermarks, progress, the journal, states and images."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.batch.images import Images, layout_of
from penstock.batch.journal import Journal, line_of, read_journal
from penstock.batch.ordering import Chunk, Ordering, Watermark
from penstock.batch.progress import Meter, Progress
from penstock.batch.records import Bad, Mark, check_job
from penstock.batch.spans import Spans, read_spans, spans_of
from penstock.batch.state import JobFolder, all_jobs, changed, default_name, fingerprint
from penstock.batch.writers import Appender, check_place
from protocol.errors import CodecError, ConfigError, FleetError, InvalidArgument
from protocol.model_config import TensorSpec

lines = st.sets(st.integers(1, 60))


@given(
    added=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), max_size=12),
    asked=st.tuples(st.integers(1, 60), st.integers(0, 9)),
)
def test_spans_are_a_set(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    spans, plain = Spans(), set()
    for first, more in added:
        spans.add(first, first + more)
        plain |= set(range(first, first + more + 1))
    assert [line for first, last in spans for line in range(first, last + 1)] == sorted(plain)
    assert all(before[1] + 1 < after[0] for before, after in zip(list(spans), list(spans)[1:], strict=False))
    wanted = set(range(asked[0], asked[0] + asked[1] + 1))
    assert spans.covers(asked[0], asked[0] + asked[1]) == (wanted <= plain)
    assert spans.touches(asked[0], asked[0] + asked[1]) == bool(wanted & plain)
    assert (asked[0] in spans) == (asked[0] in plain)
    assert spans.count() == len(plain)
    assert spans_of(sorted(plain)) == list(spans)
    assert read_spans([list(span) for span in spans]) == list(spans)


@pytest.mark.parametrize("value", [5, [[1]], [[2, 1]], [[0, 1]], [["a", "b"]], [[1, 2, 3]], {"a": 1}])
def test_a_journal_with_other_spans_is_refused(value: object) -> None:
    with pytest.raises(CodecError):
        read_spans(value)


@given(counts=st.lists(st.integers(1, 4), max_size=20), seed=st.integers(0, 999))
def test_chunks_come_back_in_order(counts: list[int], seed: int) -> None:
    ordering, starts, at = Ordering(), [], 0
    for count in counts:
        starts.append((at, count))
        at += count
    shuffled = list(starts)
    random.Random(seed).shuffle(shuffled)
    found = []
    for start, count in shuffled:
        found += ordering.put(start, count, Chunk([(start + 1, start + count)], b"x" * count, b"", count))
    assert [chunk.spans[0][0] for chunk in found] == [start + 1 for start, _ in starts]
    assert ordering.held == 0


@given(offsets=st.lists(st.integers(0, 30), unique=True), seed=st.integers(0, 999))
def test_the_watermark_is_below_every_open_answer(offsets: list[int], seed: int) -> None:
    mark, rng, waiting = Watermark(), random.Random(seed), set()
    for offset in sorted(offsets):
        mark.arrived(0, offset)
        waiting.add(offset)
        while waiting and rng.random() < 0.5:
            done = rng.choice(sorted(waiting))
            waiting.remove(done)
            mark.release(0, done)
        assert mark.low() == {0: min(waiting, default=offset + 1)}


def test_rate_and_eta() -> None:
    meter = Meter(100.0, 0)
    assert meter.measure(100.0, 0, 0, 0, 0, 0.0).eta is None
    found = meter.measure(110.0, 2000, 900, 100, 1000, 0.5)
    assert (found.rate, found.share, found.eta, found.seconds) == (100.0, 0.25, 30.0, 10.0)
    assert found.bar(200) == "██████░░░░░░░░░░░░░░░░░░  25%  1,000 lines  100/s  100 errors  0:30 left"
    assert len(found.bar(20)) == 20
    slower = meter.measure(140.0, 2000, 1400, 100, 500, None)
    assert slower.eta is None
    assert slower.rate == pytest.approx(500 / 30)
    assert Progress(1, 1, 0, 0, 1.0, 0.5, 7300.0, 1.0).bar(99).endswith("2:01:40 left")


@given(cut=st.integers(0, 400), flip=st.integers(0, 399))
def test_a_torn_journal_is_read_up_to_the_tear(cut: int, flip: int) -> None:
    entries = [
        {"begin": {"run": 1}},
        *({"done": [[n, n]], "mark": [n + 1, n], "answered": n, "places": {"0": n}} for n in range(1, 5)),
    ]
    whole = [line_of(entry) for entry in entries]
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"penstock-journal-{os.getpid()}"
    try:
        data = b"".join(whole)
        path.write_bytes(data[:cut])
        saved = read_journal(path)
        intact = [number for number in range(len(whole)) if len(b"".join(whole[: number + 1])) <= cut]
        assert (saved is None) == (not intact)
        if saved is not None:
            assert saved.answered == intact[-1]
            assert saved.size == len(b"".join(whole[: len(intact)]))
            journal = Journal(path, saved.size)
            journal.append({"answered": 99})
            journal.close()
            again = read_journal(path)
            assert again is not None
            assert again.answered == 99
        damaged = bytearray(data)
        damaged[flip % len(data)] ^= 1
        path.write_bytes(damaged)
        try:
            read_journal(path)
        except InvalidArgument:
            raise AssertionError("a damaged line must not count") from None
    finally:
        path.unlink()


def test_a_journal_of_another_program(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(line_of({"begin": 5}))
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_journal(tmp_path / "journal")
    (tmp_path / "journal").write_bytes(b"hello\n")
    assert read_journal(tmp_path / "journal") is None
    assert read_journal(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "-x", "_x", "a b", "ü", "a" * 65, "a\n"])
def test_names_that_are_no_jobs(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="must be 1 to 64 letters"):
        check_job(name)
    with pytest.raises(InvalidArgument):
        JobFolder(tmp_path, name)


@given(source=st.text(max_size=30).filter(lambda text: "\0" not in text), target=st.sampled_from(["-", "out", "/x/y"]))
def test_every_derived_name_is_a_job(source: str, target: str) -> None:
    assert check_job(default_name("m", source, target)) == default_name("m", source, target)


def test_what_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one\n")
    before = fingerprint(str(path))
    assert changed(before, fingerprint(str(path))) == ""
    path.write_bytes(b"two\n")
    assert changed(before, fingerprint(str(path))) == "its beginning is another"
    path.write_bytes(b"one\n")
    os.utime(path, ns=(1, 1))
    assert changed(before, fingerprint(str(path))) == "it was written since"
    assert fingerprint("-") == fingerprint(str(tmp_path)) == {}


def test_a_lock_is_of_a_process_and_ends_with_it(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, "j")
    assert folder.state() is None
    code = f"""
import sys, time; from pathlib import Path; from penstock.batch.state import JobFolder
f = JobFolder(Path({str(tmp_path)!r}), "j"); f.lock(); print("locked", flush=True); time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    assert folder.pid() == holder.pid
    with pytest.raises(FleetError, match=f"is being submitted by process {holder.pid}"):
        folder.lock()
    assert [job.state for job in all_jobs(tmp_path)] == ["running"]
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert folder.pid() == 0
    folder.lock()
    folder.unlock()
    (tmp_path / "not a job").mkdir()
    (tmp_path / "file").touch()
    assert list(all_jobs(tmp_path)) == []
    assert list(all_jobs(tmp_path / "none")) == []


def test_outputs(tmp_path: Path) -> None:
    path = tmp_path / "out"
    out = Appender(str(path))
    out.open(0, fresh=True)
    out.write(b"0123456789")
    out.sync()
    out.close()
    with pytest.raises(FileExistsError):
        Appender(str(path)).open(0, fresh=True)
    again = Appender(str(path))
    again.open(4, fresh=False)
    again.write(b"x")
    again.close()
    assert path.read_bytes() == b"0123x"
    with pytest.raises(ConfigError, match="has 5 bytes, and the job had written 6"):
        Appender(str(path)).open(6, fresh=False)
    full = Appender("/dev/full")
    full.open(0, fresh=True)
    with pytest.raises(OSError, match="No space left") as caught:
        full.write(b"x")
    assert caught.value.filename == "/dev/full"
    full.close()
    none = Appender("")
    none.open(0, fresh=True)
    none.write(b"x")
    none.sync()
    none.close()
    for wrong, says in [(str(tmp_path), "is a folder"), (str(tmp_path / "no" / "x"), "there is no folder")]:
        with pytest.raises(ConfigError, match=says):
            check_place(wrong, "the output")


def spec(dims: tuple[int, ...], datatype: str = "FP32", form: str = "FORMAT_NONE") -> TensorSpec:
    return TensorSpec("I", datatype, dims, format=form)


@pytest.mark.parametrize(
    ("dims", "form", "found"),
    [
        ((3, 8, 6), "FORMAT_NONE", (8, 6, 3, 0)),
        ((8, 6, 3), "FORMAT_NONE", (8, 6, 3, 2)),
        ((8, 6), "FORMAT_NONE", (8, 6, 1, None)),
        ((3, 8, 3), "FORMAT_NHWC", (3, 8, 3, 2)),
        ((1, -1, -1), "FORMAT_NCHW", (-1, -1, 1, 0)),
        ((8, 6, 4), "FORMAT_NONE", (8, 6, 4, 2)),
    ],
)
def test_how_an_input_holds_an_image(dims: tuple[int, ...], form: str, found: tuple[int, int, int, int | None]) -> None:
    layout = layout_of(spec(dims, form=form))
    assert (layout.height, layout.width, layout.channels, layout.axis) == found


@pytest.mark.parametrize("dims", [(4,), (8, 6, 5), (2, 3, 8, 6), ()])
def test_what_is_no_image(dims: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match="which is no image"):
        layout_of(spec(dims))


def test_images(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((4, 2, 3), "u1")
    pixels[:, :, 0] = 255
    image.fromarray(pixels).save(tmp_path / "red.png")
    image.fromarray(pixels[:, :, 0]).save(tmp_path / "grey.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "red.png").read_bytes()[:40])
    (tmp_path / "text.png").write_text("no image")
    read = Images("path", spec((3, 8, 6)), tmp_path)
    found = read.decode({"path": "red.png", "id": 7})
    assert found["id"] == 7
    assert found["path"].shape == (3, 8, 6)
    assert found["path"].dtype == np.float32
    assert (found["path"][0] == 1).all()
    assert (found["path"][1:] == 0).all()
    assert read.decode({"path": "grey.png"})["path"].shape == (3, 8, 6)
    normal = Images("path", spec((4, 2, 3), form="FORMAT_NHWC"), tmp_path, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).decode(
        {"path": "red.png"}
    )
    assert sorted(np.unique(normal["path"])) == [-1, 1]
    plain = Images("path", spec((-1, -1, 3), "UINT8"), tmp_path).decode({"path": "red.png"})
    assert (plain["path"] == pixels).all()
    assert Images("path", spec((1,), "BYTES"), tmp_path).decode({"path": "text.png"}) == {"path": b"no image"}
    for row, says in [
        ({"path": "none.png"}, "does not exist"),
        ({"path": "torn.png"}, "cannot be read"),
        ({"path": "text.png"}, "cannot be read"),
        ({"path": "."}, "is not a file"),
        ({"path": 5}, "not the path of an image"),
        ({"path": "a\0b"}, "cannot be read"),
    ]:
        wrong = read.decode(row)
        assert isinstance(wrong, Bad), row
        assert says in wrong.message
    assert read.decode({"other": 1}) == {"other": 1}
    with pytest.raises(InvalidArgument, match="3 channels"):
        Images("path", spec((3, 8, 6)), tmp_path, (1.0, 2.0))
    with pytest.raises(InvalidArgument, match="holds no pixels"):
        Images("path", spec((3, 8, 6), "BF16"), tmp_path)


def test_marks_begin_at_the_first_line() -> None:
    assert Mark() == Mark(1, 0)


def test_a_journal_that_cannot_be_written_is_named_with_its_flag(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(
        ConfigError, match=r"the job's journal cannot be written to '.*/file/job': Not a directory; .* --state-dir"
    ):
        JobFolder(tmp_path / "file", "job").lock()
