"""Queue-aware routing against spreading, simulated with the real router and the real batcher."""

from __future__ import annotations

import dataclasses

import pytest

from loadtest.routing_simulation import Outcome, Scene, simulate

SCENE = Scene(0.3, requests=6000)
"""Two workers whose batches of up to eight rows take 10 ms each."""


def both(scene: Scene, seed: int) -> tuple[Outcome, Outcome]:
    """(queue, spread)."""
    return simulate(scene, seed), simulate(dataclasses.replace(scene, routing="spread"), seed)


@pytest.mark.parametrize("seed", range(6))
def test_at_low_load_batches_are_larger_and_p99_is_no_worse(seed: int) -> None:
    queue, spread = both(SCENE, seed)

    assert queue.mean_batch >= 1.5 * spread.mean_batch
    assert queue.p99 <= 1.08 * spread.p99


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("load", [0.6, 0.9])
def test_at_higher_loads_nothing_is_worse(seed: int, load: float) -> None:
    queue, spread = both(dataclasses.replace(SCENE, load=load), seed)

    assert queue.mean_batch >= 0.99 * spread.mean_batch
    assert queue.p99 <= 1.05 * spread.p99
    assert max(queue.shares) <= 0.55


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("gateways", [2, 3])
def test_gateways_that_do_not_know_each_others_requests_do_not_overload_a_worker(load: float, gateways: int) -> None:
    queue, spread = both(dataclasses.replace(SCENE, load=load, workers=4, gateways=gateways, requests=12_000), 1)

    assert queue.mean_batch >= 0.99 * spread.mean_batch
    assert queue.p99 <= 1.08 * spread.p99


@pytest.mark.parametrize("load", [0.2, 0.3, 0.6, 0.9])
def test_a_model_whose_rows_cost_time_is_not_gathered(load: float) -> None:
    queue, spread = both(dataclasses.replace(SCENE, load=load, per_batch=0.002, per_row=0.001), 1)

    assert queue.p99 <= 1.05 * spread.p99
    assert max(queue.shares) <= 0.6


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
def test_a_slower_worker_gets_less_and_p99_is_better(load: float) -> None:
    queue, spread = both(dataclasses.replace(SCENE, load=load, slowness=(1.0, 2.0)), 1)

    assert queue.p99 <= 1.02 * spread.p99
    assert queue.shares[0] >= spread.shares[0]


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_a_worker_that_ends_without_a_word_gets_fewer_requests_until_it_is_missed(load: float) -> None:
    scene = dataclasses.replace(SCENE, load=load, gone=4.0, requests=8000)
    queue, spread = both(scene, 1)

    assert queue.unanswered <= 0.75 * spread.unanswered


def test_the_same_seed_gives_the_same_outcome() -> None:
    assert simulate(SCENE, 3) == simulate(SCENE, 3)
