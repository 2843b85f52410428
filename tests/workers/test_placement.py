from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from protocol.model_config import InstanceGroup, Kind, ModelConfig
from tests.config_strategies import groups
from workers.repository.placement import Placement, place

GPUS = {count: tuple(range(count)) for count in (0, 1, 2, 8)}


def config(*instance_groups: InstanceGroup) -> ModelConfig:
    return ModelConfig(name="m", instance_groups=instance_groups)


def devices(placed: tuple[Placement, ...]) -> list[tuple[str, int | None]]:
    return [(placement.kind.value, placement.device_id) for placement in placed]


class TestAuto:
    def test_without_groups_and_gpus_there_is_one_on_the_cpu(self) -> None:
        assert place(config(), GPUS[0], 4) == (Placement("m_0_0", Kind.CPU, None, 4),)

    @pytest.mark.parametrize("count", [1, 2, 8])
    def test_without_groups_there_is_one_per_gpu(self, count: int) -> None:
        placed = place(config(), GPUS[count], 16)

        assert devices(placed) == [("KIND_GPU", device) for device in range(count)]
        assert [placement.name for placement in placed] == [f"m_0_{number}" for number in range(count)]
        assert {placement.threads for placement in placed} == {16 // count}

    @pytest.mark.parametrize(("count", "kind"), [(0, Kind.CPU), (1, Kind.CPU), (2, Kind.GPU), (8, Kind.GPU)])
    def test_listed_gpus_are_used_where_all_are_there(self, count: int, kind: Kind) -> None:
        placed = place(config(InstanceGroup(gpus=(0, 1))), GPUS[count], 2)

        assert {placement.kind for placement in placed} == {kind}
        assert len(placed) == (2 if kind is Kind.GPU else 1)


class TestGpu:
    @pytest.mark.parametrize("count", [1, 2, 8])
    def test_without_a_list_the_count_is_per_gpu(self, count: int) -> None:
        placed = place(config(InstanceGroup(kind=Kind.GPU, count=2)), GPUS[count], 1)

        assert devices(placed) == [("KIND_GPU", device) for device in range(count) for _ in range(2)]
        assert len({placement.name for placement in placed}) == 2 * count

    def test_numbers_need_not_start_at_zero(self) -> None:
        placed = place(config(InstanceGroup(kind=Kind.GPU, gpus=(6,))), (4, 6), 1)

        assert devices(placed) == [("KIND_GPU", 6)]

    def test_without_gpus_it_is_an_error(self) -> None:
        with pytest.raises(
            ConfigError, match="instance group m_0 of model m has kind KIND_GPU but no GPUs are available"
        ):
            place(config(InstanceGroup(kind=Kind.GPU)), GPUS[0], 1)

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_gpu_that_is_not_there_is_an_error(self, count: int) -> None:
        available = ", ".join(map(str, GPUS[count]))

        with pytest.raises(
            ConfigError,
            match=f"instance group big of model m specifies invalid or unsupported gpu id 7. GPUs of this worker are: {available}$",
        ):
            place(config(InstanceGroup("big", Kind.GPU, 1, (0, 7))), GPUS[count], 1)

    def test_eight_gpus_have_the_one_that_two_lack(self) -> None:
        assert devices(place(config(InstanceGroup("big", Kind.GPU, 1, (0, 7))), GPUS[8], 1)) == [
            ("KIND_GPU", 0),
            ("KIND_GPU", 7),
        ]


class TestCpuAndModel:
    @pytest.mark.parametrize("count", GPUS)
    @pytest.mark.parametrize("kind", [Kind.CPU, Kind.MODEL])
    def test_gpus_make_no_difference(self, kind: Kind, count: int) -> None:
        placed = place(config(InstanceGroup(kind=kind, count=3)), GPUS[count], 12)

        assert placed == tuple(Placement(f"m_0_{number}", kind, None, 4) for number in range(3))


class TestThreads:
    @pytest.mark.parametrize(("cores", "instances", "threads"), [(8, 1, 8), (8, 3, 2), (2, 4, 1), (1, 1, 1)])
    def test_cores_are_shared_out(self, cores: int, instances: int, threads: int) -> None:
        placed = place(config(InstanceGroup(kind=Kind.CPU, count=instances)), (), cores)

        assert {placement.threads for placement in placed} == {threads}

    def test_of_all_groups_together(self) -> None:
        placed = place(config(InstanceGroup("a", Kind.CPU, 1), InstanceGroup("b", Kind.GPU, 3)), GPUS[1], 8)

        assert [(placement.name, placement.threads) for placement in placed] == [
            ("a_0", 2), ("b_0", 2), ("b_1", 2), ("b_2", 2),
        ]  # fmt: skip


def test_too_many_instances_are_refused() -> None:
    with pytest.raises(ConfigError, match="model m has more than 1024 instances on this worker"):
        place(config(InstanceGroup(kind=Kind.GPU, count=1024)), GPUS[2], 1)


@given(groups(), st.sampled_from(sorted(GPUS)), st.integers(1, 128))
def test_every_placement_is_possible(instance_groups: tuple[InstanceGroup, ...], count: int, cores: int) -> None:
    few = tuple(dataclasses.replace(group, count=min(group.count, 3)) for group in instance_groups)
    try:
        placed = place(config(*few), GPUS[count], cores)
    except ConfigError:
        assert any(group.kind is Kind.GPU for group in few)
        return
    assert len({placement.name for placement in placed}) == len(placed) > 0
    assert all((placement.device_id in GPUS[count]) == (placement.kind is Kind.GPU) for placement in placed)
    assert max(1, cores // len(placed)) == placed[0].threads
