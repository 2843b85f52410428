from __future__ import annotations

import collections
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.aliases import choice, routes
from gateway.aliases.table import AliasTable
from gateway.catalogue.catalogue import Catalogue
from protocol.control import ALIASES, AliasRoute, ModelAliases, encode_aliases
from protocol.errors import FleetError, InvalidArgument, NotFound, Unavailable
from protocol.messages import Announcement, ModelState
from protocol.naming import Names
from protocol.ports import Record
from tests.gateway.fleet import ADD_SUB

READY, LOADING, UNAVAILABLE = ModelState.READY, ModelState.LOADING, ModelState.UNAVAILABLE
CANARY = AliasRoute((("3", 90), ("4", 10)))

versions = st.integers(0, 10**18).map(str)
weights = st.dictionaries(versions, st.integers(1, routes.MAX_WEIGHT), min_size=1, max_size=routes.MAX_VERSIONS).map(
    lambda each: tuple(each.items())
)


@st.composite
def valid_routes(draw: st.DrawFn) -> AliasRoute:
    chosen = draw(weights)
    shadow = draw(st.one_of(st.just(""), versions))
    if len(chosen) == 1 and shadow == chosen[0][0]:
        shadow = ""
    return AliasRoute(chosen, shadow, draw(st.floats(0, 1)) if shadow else 1.0)


def record(entry: ModelAliases, offset: int = 0) -> Record:
    key, value = encode_aliases(entry)
    return Record("penstock.control", 0, offset, 0.0, value, (), key)


def table(**routes_by_alias: AliasRoute) -> AliasTable:
    found = AliasTable(random.Random(1))
    named = {"" if alias == "default" else alias: route for alias, route in routes_by_alias.items()}
    found.apply(record(ModelAliases("m", named)))
    return found


def catalogue(aliases: AliasTable, **states: ModelState) -> Catalogue:
    found = Catalogue(Names(), {}, aliases)
    for name, state in states.items():
        found.announce(Announcement("m", name.removeprefix("v"), state, {**ADD_SUB, "name": "m"}, "digest", "broken"))
    return found


# --- choice -----------------------------------------------------------------------------------------------------------


@given(weights=weights, dice=st.floats(0, 1, exclude_max=True), key=st.text(), data=st.data())
def test_only_ready_versions_are_chosen(weights: choice.Weights, dice: float, key: str, data: st.DataObject) -> None:
    ready = data.draw(st.sets(st.sampled_from([version for version, _ in weights])))

    for chosen in (
        choice.drawn(weights, ready, dice),
        choice.keyed(weights, ready, key),
        choice.primary(weights, ready),
    ):
        assert chosen in ready if ready else chosen == ""


@given(weights=weights.filter(lambda each: len(each) <= 4), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_each_version_gets_its_part_of_the_calls(weights: choice.Weights, seed: int) -> None:
    calls, dice = 4000, random.Random(seed)
    ready = {version for version, _ in weights}
    total = sum(weight for _, weight in weights)
    ways = {
        "drawn": collections.Counter(choice.drawn(weights, ready, dice.random()) for _ in range(calls)),
        "keyed": collections.Counter(choice.keyed(weights, ready, f"{seed} {n}") for n in range(calls)),
    }

    for counted in ways.values():
        for version, weight in weights:
            part = weight / total
            assert abs(counted[version] / calls - part) <= 5 * (part * (1 - part) / calls) ** 0.5 + 1 / calls


@given(weights=weights, key=st.text(), data=st.data())
def test_a_key_changes_its_version_only_if_that_one_is_gone(
    weights: choice.Weights, key: str, data: st.DataObject
) -> None:
    everyone = {version for version, _ in weights}
    first = choice.keyed(weights, everyone, key)
    left = data.draw(st.sets(st.sampled_from(sorted(everyone))))

    again = choice.keyed(weights, left, key)

    assert again == first if first in left else again != first


# --- routes -----------------------------------------------------------------------------------------------------------


@given(route=valid_routes())
def test_a_route_survives_json_and_the_wire(route: AliasRoute) -> None:
    assert routes.parse_route(routes.route_document(route)) == route

    found = table(prod=route)

    assert found.routes("m") == {"prod": route}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    document=_JSON
    | st.fixed_dictionaries(
        {"versions": st.dictionaries(versions | st.text(max_size=3), _JSON, max_size=3)}, optional={"shadow": _JSON}
    )
)
def test_whatever_a_caller_sends_is_a_valid_route_or_refused(document: object) -> None:
    try:
        route = routes.parse_route(document)
    except InvalidArgument:
        return
    assert routes.check(route) == route


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "must be a JSON object"),
        ({}, "needs 'versions'"),
        ({"versions": {}}, "needs 'versions'"),
        ({"versions": {"x": 1}}, "must be a version"),
        ({"versions": {"03": 1}}, "must be a version"),
        ({"versions": {"3": 0}}, "weight of version 3"),
        ({"versions": {"3": True}}, "weight of version 3"),
        ({"versions": {"3": 1.5}}, "weight of version 3"),
        ({"versions": {"3": 1}, "shade": 1}, "unknown field 'shade'"),
        ({"versions": {"3": 1}, "shadow": {"version": "3"}}, "gets all calls"),
        ({"versions": {"3": 1}, "shadow": {"version": "4", "share": 1.5}}, "0 to 1"),
        ({"versions": {"3": 1}, "shadow": {"version": "4", "share": "much"}}, "0 to 1"),
        ({"versions": {str(n): 1 for n in range(17)}}, "1 to 16 versions"),
    ],
)
def test_a_wrong_route_is_refused_with_words(document: object, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        routes.parse_route(document)


@given(name=st.text(max_size=80))
def test_a_name_is_an_alias_or_a_models(name: str) -> None:
    parts = routes.split(name)

    if parts is not None:
        model, alias = parts
        assert name in (f"{model}@{routes.spelled(alias)}",)


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_record_that_cannot_be_read_changes_nothing() -> None:
    found = table(prod=CANARY)
    key, value = encode_aliases(ModelAliases("m", {"prod": AliasRoute((("3", 0),))}))
    broken = [
        Record("t", 0, 1, 0.0, b"junk", (), key),
        Record("t", 0, 1, 0.0, value, (), key),
        Record("t", 0, 1, 0.0, value, (), f"{ALIASES}other".encode()),
    ]

    for each in broken:
        with pytest.raises(FleetError):
            found.apply(each)

    assert found.routes("m") == {"prod": CANARY}


def test_an_older_record_that_is_read_again_changes_nothing() -> None:
    found = table(prod=CANARY)
    found.apply(record(ModelAliases("m", {"prod": AliasRoute((("4", 1),))}), 5))

    found.apply(record(ModelAliases("m", {"prod": CANARY}), 0))

    assert found.routes("m")["prod"].weights == (("4", 1),)


def test_an_empty_record_forgets_a_models_aliases() -> None:
    found = table(prod=CANARY)

    found.apply(Record("t", 0, 3, 0.0, b"", (), f"{ALIASES}m".encode()))

    assert found.named("m@prod") is None
    assert found.models() == []


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_an_alias_is_its_version_wherever_a_model_is_named() -> None:
    found = catalogue(table(prod=AliasRoute((("3", 1),))), v3=READY, v4=READY)

    assert found.pick("m@prod").version == "3"
    assert found.resolve("m@prod").version == "3"
    assert [served.version for served in found.versions("m@prod")] == ["3"]
    assert found.known("m@prod")
    assert found.pick("m").version == "4"  # no default alias: the highest, as before


def test_the_default_alias_is_for_calls_without_a_version() -> None:
    found = catalogue(table(default=AliasRoute((("3", 1),))), v3=READY, v4=READY)

    assert found.pick("m").version == "3"
    assert found.pick("m", "4").version == "4"
    assert found.pick("m@default").version == "3"


def test_a_switch_is_seen_by_the_next_call() -> None:
    aliases = table(prod=AliasRoute((("3", 1),)))
    found = catalogue(aliases, v3=READY, v4=READY)
    assert found.pick("m@prod").version == "3"

    aliases.apply(record(ModelAliases("m", {"prod": AliasRoute((("4", 1),))}), 1))
    found.redirected()

    assert found.pick("m@prod").version == "4"


def test_a_weighted_alias_is_described_by_its_main_version_and_spreads_calls() -> None:
    found = catalogue(table(prod=CANARY), v3=READY, v4=READY)

    counted = collections.Counter(found.pick("m@prod").version for _ in range(2000))

    assert {found.resolve("m@prod").version for _ in range(50)} == {"3"}
    assert 120 < counted["4"] < 290
    assert len({found.pick("m@prod", "", "-\nkey").version for _ in range(50)}) == 1


def test_a_version_that_is_not_ready_leaves_its_calls_to_the_others() -> None:
    found = catalogue(table(prod=CANARY), v3=UNAVAILABLE, v4=READY)
    assert {found.pick("m@prod").version for _ in range(50)} == {"4"}

    found.announce(Announcement("m", "4", LOADING, {**ADD_SUB, "name": "m"}, "digest"))

    with pytest.raises(Unavailable, match="no version of its alias 'prod' is"):
        found.pick("m@prod")
    assert found.awaits("m@prod", "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m@beta", "'m@beta' is not found: model 'm' has no alias 'beta'"),
        ("other@prod", "'other@prod' is not found$"),
        ("m@", "'m@' is not found$"),
        ("@prod", "'@prod' is not found$"),
    ],
)
def test_an_unknown_alias_is_named(name: str, words: str) -> None:
    found = catalogue(table(prod=CANARY), v3=READY)

    with pytest.raises(NotFound, match=words):
        found.pick(name)


def test_an_alias_and_a_version_are_too_much() -> None:
    found = catalogue(table(prod=CANARY), v3=READY)

    with pytest.raises(InvalidArgument, match="names an alias"):
        found.pick("m@prod", "3")


def test_a_models_own_name_counts_before_an_alias() -> None:
    found = catalogue(table(prod=CANARY), v3=READY)
    found.announce(Announcement("m@prod", "7", READY, {**ADD_SUB, "name": "m@prod"}, "digest"))

    assert found.pick("m@prod").version == "7"
    assert found.pick("m@prod", "7").version == "7"


def test_calls_of_a_route_with_a_shadow_carry_it_and_others_do_not() -> None:
    route = AliasRoute((("3", 1), ("4", 1)), "4", 0.5)
    found = catalogue(table(prod=route), v3=READY, v4=READY)

    served = [found.pick("m@prod") for _ in range(100)]

    assert {(each.version, each.shadow) for each in served} == {("3", route), ("4", None)}
    assert {each.batch.shadow for each in served if each.version == "3"} == {route}
    assert found.pick("m", "3").shadow is None
