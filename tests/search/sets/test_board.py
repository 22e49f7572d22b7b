"""The front of a set is that of all choices of one option for each model."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.sets.board import Option, whole_front

shares = st.integers(0, 20).map(lambda twentieths: twentieths / 20)
options = st.lists(
    st.builds(Option, shares, shares, st.integers(0, 99), st.just("searched")), min_size=1, max_size=4
)


@given(st.lists(st.tuples(options, st.sampled_from([1.0, 2.5])), min_size=1, max_size=3))
def test_the_front_of_a_set_is_what_no_choice_of_its_models_beats(
    models: list[tuple[list[Option], float]],
) -> None:
    weights = [weight for _, weight in models]
    front = whole_front([options for options, _ in models], weights)

    def whole(chosen: tuple[Option, ...]) -> tuple[float, float]:
        accuracy = sum(weight * option.accuracy for weight, option in zip(weights, chosen, strict=True))
        return round(sum(option.cost for option in chosen), 9), round(accuracy / sum(weights), 9)

    every = {whole(chosen) for chosen in product(*(options for options, _ in models))}
    unbeaten = sorted(
        (cost, accuracy)
        for cost, accuracy in every
        if not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in every)
    )
    found = list(zip(front["cost"], front["accuracy"], strict=True))
    assert np.array(found) == pytest.approx(np.array(unbeaten))
    for point, numbers in zip(found, front["options"], strict=True):
        chosen = tuple(options[number] for (options, _), number in zip(models, numbers, strict=True))
        assert whole(chosen) == pytest.approx(point)


def test_a_set_of_which_a_model_is_not_known_has_no_front() -> None:
    known = [Option(1.0, 0.9, None, "dense")]
    assert whole_front([known, []], [1.0, 1.0]) == {"cost": [], "accuracy": [], "options": []}
