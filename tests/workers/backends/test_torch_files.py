"""PyTorch's files are completed from what they state, and served; where they state too little, the error has what to paste."""

from __future__ import annotations

import dataclasses
import warnings
import zipfile
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protocol.errors import ConfigError
from protocol.example_shapes import MAX_ELEMENTS
from protocol.model_config import ModelConfig, TensorSpec, pbtxt
from tests.workers.backends.models import request, run
from workers.backends.torch import TorchBackend
from workers.backends.torch_probe import probe_alone, probe_rows, tensors_of
from workers.repository.completion import complete
from workers.repository.model_files import ModelFile
from workers.repository.placement import place
from workers.repository.scan import scan_file
from workers.repository.stated_inputs import parse_input
from workers.repository.version import ModelVersion

ROWS = torch.export.Dim("rows", max=16)


class Net(torch.nn.Module):
    """Returns a dict; its rows are independent."""

    def forward(self, x):  # type: ignore[no-untyped-def]
        return {"double": x * 2, "best": x.argmax(1)}


def exported(path: Path, module: torch.nn.Module, inputs: tuple[Any, ...], shapes: Any = None, **named: Any) -> Path:
    torch.export.save(torch.export.export(module, inputs, named, dynamic_shapes=shapes), str(path))
    return path


def traced(path: Path, module: torch.nn.Module, *inputs: torch.Tensor) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, inputs, strict=False).save(str(path))
    return path


def scripted(path: Path, module: torch.nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))
    return path


def completed(path: Path, *inputs: str, **stated: Any) -> ModelVersion:
    """As `penstock serve PATH --input …` completes it."""
    version = scan_file(ModelFile(path, inputs=tuple(parse_input(text) for text in inputs)))
    config = dataclasses.replace(version.config, **stated)
    return dataclasses.replace(
        version, config=complete(config, TorchBackend().inspect(dataclasses.replace(version, config=config)))
    )


def shapes(
    config: ModelConfig,
) -> tuple[int, list[tuple[str, str, tuple[int, ...]]], list[tuple[str, str, tuple[int, ...]]]]:
    inputs, outputs = (
        [(spec.name, spec.datatype, spec.model_dims) for spec in side] for side in (config.inputs, config.outputs)
    )
    return config.max_batch_size, inputs, outputs


def answers(version: ModelVersion, *requests: Any) -> list[Any]:
    return run(TorchBackend().load(version, place(version.config, [], 1)[0]), requests)


NET = (16, [("x", "FP32", (4,))], [("double", "FP32", (4,)), ("best", "INT64", ())])


def test_an_exported_program_states_everything(tmp_path: Path) -> None:
    version = completed(exported(tmp_path / "net.pt2", Net(), (torch.zeros(2, 4),), ({0: ROWS},)))
    assert shapes(version.config) == NET
    one, two = answers(
        version, request(x=np.float32([[1, 5, 2, 3]])), request(x=np.float32([[1, 1, 2, 3], [9, 1, 1, 1]]))
    )
    np.testing.assert_array_equal(one["double"], [[2, 10, 4, 6]])
    np.testing.assert_array_equal(two["best"].ravel(), [3, 0])


def test_more_rows_than_an_exported_program_takes_are_refused_at_load(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.pt2", Net(), (torch.zeros(2, 4),), ({0: ROWS},))
    with pytest.raises(ConfigError, match="max_batch_size of model 'net' is 17, and its file takes at most 16 rows"):
        completed(path, max_batch_size=17, batch_size_stated=True)


def test_a_program_with_fixed_sizes_does_not_batch(tmp_path: Path) -> None:
    version = completed(exported(tmp_path / "net.pt2", Net(), (torch.zeros(2, 4),)))
    assert shapes(version.config) == (0, [("x", "FP32", (2, 4))], [("double", "FP32", (2, 4)), ("best", "INT64", (2,))])


@pytest.mark.parametrize("rows", [torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO])
def test_a_first_dimension_without_bounds_is_the_batch(tmp_path: Path, rows: Any) -> None:
    """torch writes a lower bound of 2 for it, and takes a single row."""
    version = completed(exported(tmp_path / "net.pt2", Net(), (torch.zeros(2, 4),), ({0: rows},)))
    assert shapes(version.config) == (32, [("x", "FP32", (4,))], [("double", "FP32", (4,)), ("best", "INT64", ())])
    (answer,) = answers(version, request(x=np.float32([[1, 5, 2, 3]])))
    assert answer["double"].tolist() == [[2, 10, 4, 6]]


class Many(torch.nn.Module):
    """Keywords, constants, None, nested outputs and bfloat16."""

    def forward(self, ids, flag: bool, *, mask):  # type: ignore[no-untyped-def]
        return (ids * mask).to(torch.bfloat16), None, [mask + 1 if flag else mask, {"sum": ids.sum(1)}]


def test_keywords_constants_none_and_nested_outputs(tmp_path: Path) -> None:
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length", max=512)
    long, sizes = torch.ones(2, 8, dtype=torch.int64), {0: rows, 1: length}
    by_name = {"ids": sizes, "flag": None, "mask": sizes}
    path = exported(tmp_path / "net.pt2", Many(), (long, True), by_name, mask=long + 0)
    version = completed(path)
    assert shapes(version.config) == (
        32,
        [("ids", "INT64", (-1,)), ("mask", "INT64", (-1,))],
        [("OUTPUT__0", "BF16", (-1,)), ("OUTPUT__2", "INT64", (-1,)), ("sum", "INT64", ())],
    )
    (answer,) = answers(version, request(ids=np.int64([[1, 2, 3]]), mask=np.int64([[1, 0, 1]])))
    assert answer["OUTPUT__2"].tolist() == [[2, 1, 2]]
    assert answer["sum"].ravel().tolist() == [6]


def test_the_configurations_names_and_only_its_inputs_may_be_stated(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.pt2", Net(), (torch.zeros(2, 4),), ({0: ROWS},))
    stated = TensorSpec("INPUT__0", "FP32", (4,))
    version = completed(path, inputs=(stated,), outputs=(TensorSpec("OUTPUT__1", "INT64", (1,), reshape=()),))
    (answer,) = answers(version, request(INPUT__0=np.float32([[1, 5, 2, 3]])))
    assert {name: value.ravel().tolist() for name, value in answer.items()} == {"OUTPUT__1": [1]}
    with pytest.raises(ConfigError, match="expects datatype INT64 for input 'INPUT__0', model provides FP32"):
        completed(path, inputs=(dataclasses.replace(stated, datatype="INT64"),))


Pair = namedtuple("Pair", "left right")  # as a model has it


class ReturnsPair(torch.nn.Module):
    def forward(self, x):  # type: ignore[no-untyped-def]
        return x.to(torch.complex64)


def test_what_v2_does_not_carry_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.pt2", ReturnsPair(), (torch.zeros(2, 4),))
    with pytest.raises(
        ConfigError, match=r"'OUTPUT__0' is complex64, which the V2 protocol does not have; export a wrapper"
    ):
        completed(path)


def test_a_traced_module_has_the_shapes_of_its_example(tmp_path: Path) -> None:
    version = completed(traced(tmp_path / "net.pth", Net(), torch.zeros(1, 4)))
    assert shapes(version.config) == (32, *NET[1:])
    first, second = answers(version, *[request(x=np.float32([[1, 5, 2, 3]])) for _ in range(2)])
    assert first["best"].ravel().tolist() == second["best"].ravel().tolist() == [1]


class Flat(torch.nn.Module):
    """Mixes its rows: it cannot batch."""

    def forward(self, x):  # type: ignore[no-untyped-def]
        return x.reshape(8) + 1


def test_a_traced_module_that_does_not_follow_the_rows_is_served_as_it_was_traced(tmp_path: Path) -> None:
    version = completed(traced(tmp_path / "net.jit", Flat(), torch.zeros(2, 4)))
    assert shapes(version.config) == (0, [("x", "FP32", (2, 4))], [("OUTPUT__0", "FP32", (8,))])


class Words(torch.nn.Module):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
        return ids * mask * scale, ids.sum(dim=1)


def test_a_scripted_module_is_served_with_inputs_that_the_command_line_states(tmp_path: Path) -> None:
    path = scripted(tmp_path / "net.pt", Words())
    version = completed(path, "ids:INT64:-1", "mask:FP32:-1")
    assert shapes(version.config) == (
        32,
        [("ids", "INT64", (-1,)), ("mask", "FP32", (-1,))],
        [("OUTPUT__0", "FP32", (-1,)), ("OUTPUT__1", "INT64", ())],
    )
    (answer,) = answers(version, request(ids=np.int64([[1, 2]]), mask=np.float32([[1, 0.5]])))
    assert answer["OUTPUT__0"].tolist() == [[2.0, 2.0]]


def test_a_scripted_module_without_stated_inputs_is_refused_with_lines_to_paste(tmp_path: Path) -> None:
    path = scripted(tmp_path / "net.pt", Words())
    with pytest.raises(ConfigError) as refused:
        completed(path)
    message = refused.value.message
    assert f"penstock serve {path} --input ids:FP32:3,224,224 --input mask:FP32:3,224,224" in message
    skeleton = message[message.index("    input [") :]
    config = pbtxt.parse(skeleton.encode(), "config.pbtxt", "net")
    assert [(spec.name, spec.dims) for spec in config.inputs] == [("ids", (3, 224, 224)), ("mask", (3, 224, 224))]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (("ids:INT64:-1",), "model 'net' also takes the input 'mask', which its configuration does not state"),
        (("ids:INT64:-1", "masc:FP32:-1", "x:FP32:1"), "unexpected inference input 'x' for model 'net', its forward takes: ids"),
        (("ids:INT64:2", "mask:FP32:3"), r"with rows: .* zeros .*\(ids INT64 \[-1, 2\], mask FP32 \[-1, 3\]\): .*match"),
        (("ids:BYTES:2", "mask:FP32:3"), "input 'ids' is BYTES, which PyTorch does not have"),
    ],
)  # fmt: skip
def test_wrongly_stated_inputs_are_refused(tmp_path: Path, inputs: tuple[str, ...], said: str) -> None:
    path = scripted(tmp_path / "net.pt", Words())
    with pytest.raises(ConfigError, match=said):
        completed(path, *inputs)


class Counts(torch.nn.Module):
    def forward(self, x: torch.Tensor, n: int) -> torch.Tensor:
        return x * n


def test_a_forward_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes 'n' of type int, and requests carry only tensors; export a wrapper"):
        completed(scripted(tmp_path / "net.pt", Counts()))


class Sums(torch.nn.Module):
    def forward(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        return parts["a"] + parts["b"]


def test_tensors_in_a_dict_are_to_be_given_one_by_one(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'parts' of type Dict\[str, Tensor\], .* takes tensors and makes 'parts' of them"
    ):
        completed(scripted(tmp_path / "net.pt", Sums()))


class Constant(torch.nn.Module):
    def forward(self) -> torch.Tensor:
        return torch.ones(2)


def test_a_forward_without_inputs_is_refused(tmp_path: Path) -> None:
    for path in (scripted(tmp_path / "net.pt", Constant()), exported(tmp_path / "net.pt2", Constant(), ())):
        with pytest.raises(ConfigError, match="takes no inputs, so there is nothing that a request could ask it"):
            completed(path)


class Renamed(torch.nn.Module):
    """Its author calls `self` otherwise."""

    def forward(this, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:  # noqa: N805
        return x * by


def test_the_module_itself_is_no_input_whatever_it_is_called(tmp_path: Path) -> None:
    version = completed(scripted(tmp_path / "net.pt", Renamed()), "x:FP32:2", "by:FP32:2")
    (answer,) = answers(version, request(x=np.float32([[1, 2]]), by=np.float32([[3, 4]])))
    assert answer["OUTPUT__0"].tolist() == [[3, 8]]


class Ranks(torch.nn.Module):
    def forward(self, x: torch.Tensor, by: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * by, torch.tensor([by.dim()])


def test_a_scalar_input_is_one(tmp_path: Path) -> None:
    """Not one element: traced, exported and scripted models tell them apart."""
    inputs = torch.ones(2, 4), torch.tensor(3.0)
    stated = "x:FP32:2,4", "by:FP32:"
    for path, more in (
        (exported(tmp_path / "net.pt2", Ranks(), inputs), ()),
        (traced(tmp_path / "net.pt", Ranks(), *inputs), ()),
        (scripted(tmp_path / "net.jit", Ranks()), stated),
    ):
        version = completed(path, *more, batch_size_stated=True)
        (answer,) = answers(version, request(x=np.ones((2, 4), np.float32), by=np.float32([2])))
        assert answer["OUTPUT__0"].tolist() == [[2] * 4] * 2
        assert answer["OUTPUT__1"].tolist() == [0]


class Doubles(torch.nn.Module):
    """Writes to its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


def test_a_forward_that_writes_to_its_input_does_not_write_to_the_request(tmp_path: Path) -> None:
    """Its array is needed again if the batch fails, or the request is delivered again."""
    version = completed(traced(tmp_path / "net.pt", Doubles(), torch.ones(2, 4)))
    asked = request(x=np.ones((1, 4), np.float32))
    for _ in range(2):
        (answer,) = answers(version, asked)
        assert answer["OUTPUT__0"].tolist() == [[2, 2, 2, 2]]


def test_an_archive_with_an_object_that_torch_would_unpickle_is_refused(tmp_path: Path) -> None:
    good = exported(tmp_path / "good.pt2", Net(), (torch.zeros(2, 4),))
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / "net.pt2", "w") as made:
        for name in source.namelist():
            made.writestr(name, source.read(name))
        made.writestr("good/data/constants/opaque_obj_0", b"cos\nsystem\n(S'touch ran'\ntR.")
    version = completed(tmp_path / "net.pt2")
    with pytest.raises(ConfigError, match=r"holds a pickled Python object \('data/constants/opaque_obj_0'\)"):
        answers(version, request(x=np.zeros((2, 4), np.float32)))


@pytest.mark.parametrize("attempt", [probe_rows, probe_alone])
@pytest.mark.parametrize("axes", [1, 4, 6])
def test_no_size_that_nobody_asked_for_takes_all_memory(attempt: Any, axes: int) -> None:
    """The sizes that are tried of a model that refuses all of them."""
    seen: list[int] = []

    def refuse(tensors: Mapping[str, torch.Tensor]) -> None:
        seen.append(sum(tensor.numel() for tensor in tensors.values()))
        raise ValueError("no")

    inputs = list(tensors_of([TensorSpec("x", "FP32", (-1,) * axes)], rows=attempt is probe_rows))
    with pytest.raises(ConfigError, match="does not run with zeros"):
        attempt(refuse, inputs)

    assert max(seen) <= MAX_ELEMENTS
    assert min(seen) <= 2, "the smallest is tried"
