"""Whatever is done to a valid graph, reading it is refused in words or gives a graph that works."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwprofiles.errors import BundleError, UnsupportedOpError
from tests.bundles import exported
from tests.trials.test_bundle_reader import GRAPH, Json, write_graph
from trials.bundle import Bundle, read_bundle
from trials.costs import Costs
from trials.groups import analyse


@cache
def good(name: str) -> str:
    return json.dumps(exported(name).graph.to_json())


def places(data: Json) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield data, key
        yield from places(value)


names = st.sampled_from(["vgg_flatten", "vit", "mobilenet_v2", "bert"])


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**20, 2**31, 2**40, 2**63 - 1, -(2**63), math.inf, math.nan, 0.5]),
    st.sampled_from(
        ["", "x", "forward", "\ud800", "features.0.weight", "conv2d", "same", "aten.bmm.default"]
    ),
    st.lists(st.integers(-2, 2**20), max_size=4),
    st.sampled_from([{"batch": 3}, {"tensor": "pos_embed"}, {"value": "x"}, {"dtype": "int8"}, {}, [{}]]),
)


def mutate(graph: Json, data: st.DataObject) -> None:
    """Change, drop, double or exchange one place, most often in the arguments of a node."""
    nodes = graph.get("nodes")
    arguments = (
        [node["args"] for node in nodes if isinstance(node, dict) and node.get("args")]
        if isinstance(nodes, list)
        else []
    )
    part = arguments if arguments and data.draw(st.integers(0, 3)) else graph
    found = list(places(part))
    container, key = data.draw(st.sampled_from(found))
    match data.draw(st.sampled_from(["junk", "drop", "double", "exchange", "number"])):
        case "junk":
            container[key] = data.draw(junk)
        case "number" if isinstance(container[key], int):
            container[key] = data.draw(st.integers(-2, 64))
        case "drop":
            del container[key]
        case "double" if isinstance(container, list):
            container.insert(key, deepcopy(container[key]))
        case _:
            other, its_key = data.draw(
                st.sampled_from([(o, k) for o, k in found if type(o[k]) is type(container[key])])
            )
            container[key] = deepcopy(other[its_key])


def in_words(folder: Path) -> Bundle | None:
    """Read a bundle and build what it holds; None if that is refused in words."""
    try:
        bundle = read_bundle(folder)
        Costs(analyse(bundle.graph))
        bundle.network()
    except (BundleError, UnsupportedOpError) as error:
        if len(str(error)) < 20:
            raise
        return None
    return bundle


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), name=names)
def test_a_damaged_graph_is_refused_in_words_or_still_works(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    graph = json.loads(good(name))
    for _ in range(data.draw(st.integers(1, 2))):
        mutate(graph, data)
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    exported(name).write(folder)
    write_graph(folder, json.dumps(graph))
    found = in_words(folder)
    assert found is None or found.graph.to_json() == json.loads((folder / GRAPH).read_text())
