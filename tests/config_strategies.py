"""Hypothesis strategies for model configurations that keep every rule."""

from __future__ import annotations

from hypothesis import strategies as st

from protocol.model_config import (
    BatchInput,
    BatchInputKind,
    BatchOutput,
    DynamicBatching,
    InstanceGroup,
    Kind,
    MetricControl,
    ModelConfig,
    Optimization,
    QueuePolicy,
    RateLimiter,
    RepositoryAgent,
    Resource,
    TensorSpec,
    TimeoutAction,
    VersionPolicy,
    Warmup,
    WarmupInput,
)
from protocol.model_config.checks import FIRST_RESPONSE
from protocol.model_config.parts import FORMATS, PRIORITIES
from protocol.model_config.ragged import BatchOutputKind
from protocol.tensors import ITEM_SIZE

words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12)
datatypes = st.sampled_from(sorted(ITEM_SIZE))
seconds = st.integers(0, 2**50).map(lambda micros: micros / 1e6)
file_names = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?\.[a-z]{2,4}", fullmatch=True)
sizes = st.integers(1, 2**40) | st.just(-1)

policies = st.builds(QueuePolicy, st.sampled_from(TimeoutAction), seconds, st.booleans(), st.integers(0, 2**32 - 1))
versions = st.one_of(
    st.builds(VersionPolicy, st.integers(1, 2**32 - 1)),
    st.just(VersionPolicy(None)),
    st.lists(st.integers(0, 2**63 - 1), max_size=3).map(lambda chosen: VersionPolicy(None, tuple(chosen))),
)
optimizations = st.builds(
    Optimization,
    st.none() | st.integers(-3, 3),
    st.sampled_from(PRIORITIES),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)


@st.composite
def tensor_specs(draw: st.DrawFn, name: str, *, given: bool, batching: bool) -> TensorSpec:
    dims = tuple(draw(st.lists(sizes, min_size=1, max_size=4)))
    reshape = draw(st.sampled_from([None, dims, (1, *dims)]))
    if batching and draw(st.booleans()):
        dims, reshape = (1,), ()
    datatype = draw(datatypes)
    if not given:
        return TensorSpec(name, datatype, dims, reshape=reshape, label_filename=draw(st.just("") | file_names))
    layout = draw(st.sampled_from(FORMATS)) if len(dims) == 3 else "FORMAT_NONE"
    ragged = draw(st.booleans())
    return TensorSpec(name, datatype, dims, draw(st.booleans()), reshape, ragged, format=layout)


@st.composite
def batchings(draw: st.DrawFn, max_batch_size: int) -> DynamicBatching:
    preferred = draw(st.lists(st.integers(1, max_batch_size), max_size=3)) if max_batch_size else []
    if draw(st.booleans()):
        return DynamicBatching(tuple(preferred), draw(seconds), preserve_ordering=True)
    levels = draw(st.just(0) | st.integers(1, 2**64 - 1))
    by_level = draw(st.dictionaries(st.integers(1, levels), policies, max_size=2)) if levels else {}
    default = draw(st.integers(1, levels)) if levels else 0
    return DynamicBatching(tuple(preferred), draw(seconds), False, levels, default, draw(policies), by_level)


resources = st.builds(Resource, words, st.integers(0, 2**32 - 1), st.booleans())
limiters = st.none() | st.builds(
    RateLimiter,
    st.lists(resources, max_size=3, unique_by=lambda each: (each.name, each.everywhere)).map(tuple),
    st.integers(0, 2**32 - 1),
)
agents = st.builds(
    RepositoryAgent,
    st.just("checksum"),
    st.dictionaries(file_names.map("MD5:{}".format), st.from_regex("[0-9a-f]{32}", fullmatch=True), max_size=2),
)


@st.composite
def groups(draw: st.DrawFn) -> tuple[InstanceGroup, ...]:
    chosen = []
    for name in draw(st.lists(words, unique=True, max_size=3)):
        kind = draw(st.sampled_from(Kind))
        gpus = draw(st.lists(st.integers(0, 7), unique=True, max_size=3)) if kind in (Kind.AUTO, Kind.GPU) else []
        chosen.append(InstanceGroup(name, kind, draw(st.integers(1, 1024)), tuple(gpus), draw(limiters)))
    return tuple(chosen)


bounds = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=4, unique=True).map(sorted).map(tuple)
controls = st.builds(MetricControl, st.just(FIRST_RESPONSE), bounds)


@st.composite
def warmup_inputs(draw: st.DrawFn) -> WarmupInput:
    source = draw(st.sampled_from(["zero_data", "random_data", "input_data_file"]))
    file = draw(file_names) if source == "input_data_file" else ""
    return WarmupInput(draw(datatypes), tuple(draw(st.lists(st.integers(1, 99), max_size=3))), source, file)


@st.composite
def batch_inputs(draw: st.DrawFn, inputs: tuple[TensorSpec, ...]) -> list[BatchInput]:
    given = [spec.name for spec in inputs]
    fresh = st.lists(words.filter(lambda name: name not in given), unique=True, max_size=3)
    sources = st.sampled_from(given) if given else words
    return [
        BatchInput(
            draw(st.sampled_from(BatchInputKind)), (name,), draw(st.sampled_from(["INT32", "FP32"])), (draw(sources),)
        )
        for name in draw(fresh)
    ]


@st.composite
def batch_outputs(
    draw: st.DrawFn, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> list[BatchOutput]:
    if not inputs or not outputs or draw(st.booleans()):
        return []
    targets, sources = draw(st.sampled_from(outputs)), draw(st.sampled_from(inputs))
    return [BatchOutput(BatchOutputKind.SCATTER_WITH_INPUT_SHAPE, (targets.name,), (sources.name,))]


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Any configuration, complete or not, that breaks no rule."""
    rows, stated = draw(st.sampled_from([0, 1, 8, 2**31 - 1])), draw(st.booleans())
    rows = rows if stated else 0
    names = st.lists(words, unique=True, max_size=3)
    batching = draw(st.booleans())
    warmups = st.builds(
        Warmup, words, st.just(1), st.integers(1, 10**6), st.dictionaries(words, warmup_inputs(), max_size=2)
    )
    inputs = tuple(draw(tensor_specs(name, given=True, batching=rows > 0)) for name in draw(names))
    outputs = tuple(draw(tensor_specs(name, given=False, batching=rows > 0)) for name in draw(names))
    return ModelConfig(
        name=draw(words),
        platform=draw(st.just("") | words),
        backend=draw(st.just("") | words),
        max_batch_size=rows,
        batch_size_stated=stated,
        inputs=inputs,
        outputs=outputs,
        version_policy=draw(versions),
        instance_groups=draw(groups()),
        dynamic_batching=draw(batchings(rows)) if batching else None,
        parameters=draw(st.dictionaries(words, st.just("") | words, max_size=2)),
        metric_tags=draw(st.dictionaries(words, words, max_size=2)),
        warmups=tuple(draw(st.lists(warmups, max_size=2))),
        default_model_filename=draw(st.just("") | file_names),
        optimization=draw(optimizations),
        batch_inputs=tuple(draw(batch_inputs(inputs))),
        batch_outputs=tuple(draw(batch_outputs(inputs, outputs))),
        response_cache=draw(st.none() | st.booleans()),
        agents=tuple(draw(st.lists(agents, max_size=2))),
        metric_controls=tuple(draw(st.lists(controls, max_size=1))),
    )
