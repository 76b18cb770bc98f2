from typing import Any

import chex
import numpy as np
import pytest

from experiments.reporting.layers_figure import layers_figure
from experiments.store import Evaluation, LayerCount, Result
from experiments.trial import Trial
from lap_jax import METHODS


def result(
    method: str,
    tau: int,
    seed: int,
    dead: tuple[int, int] = (0, 0),
    kept: tuple[int, int] = (50, 8),
) -> Result:
    trial = Trial("fcn", "relu", "digits", method, tau, seed, 100, 50, 60, 1e-3)
    moments = tuple(Evaluation(step, 0.1, None, 0.1, None) for step in (-1, 0, 50))
    counts = zip((1000, 40), kept, dead, strict=True)
    layers = tuple(LayerCount(f"L{i}", size, k, 20, d) for i, (size, k, d) in enumerate(counts))
    return Result(trial, 0.5**tau, None, layers, moments, 1.0)


def maps(figure: Any) -> tuple[dict[tuple[int, str], Any], list[list[str]]]:
    """Titles and values [layer, level] of the heat maps; the numbers written in them."""
    shown = [axes for axes in figure.get_axes() if axes.collections]
    values = {
        (n, axes.get_title()): axes.collections[0].get_array() for n, axes in enumerate(shown)
    }
    return values, [[text.get_text() for text in axes.texts] for axes in shown]


def test_maps_are_means_over_seeds_and_equal_ones_are_drawn_once() -> None:
    results = [
        *(result("MP", 4, seed, dead) for seed, dead in enumerate(((10, 0), (20, 2)))),
        *(result("LAP", 4, seed, (2, 0)) for seed in (0, 1)),
    ]
    values, texts = maps(layers_figure(results))
    assert [title for _, title in values] == ["every method", "MP", "LAP"]
    density, dead_mp, dead_lap = ([5, 20], [75, 5], [10, 0])
    wanted = [np.array([column], float).T for column in (density, dead_mp, dead_lap)]
    chex.assert_trees_all_close([np.asarray(found) for found in values.values()], wanted)
    assert texts == [["5.0", "20"], ["75", "5.0"], ["10", "0"]]


def test_no_neuron_dead_and_no_weight_kept_can_be_drawn() -> None:
    values, _ = maps(layers_figure([result("MP", 4, 0)]))
    assert [title for _, title in values] == ["MP", "MP"]
    maps(layers_figure([result("MP", 9, 0, (20, 20), (0, 0))]))


@pytest.mark.parametrize("count", [5, 9])
def test_a_level_without_a_result_stays_blank(count: int) -> None:
    methods = list(METHODS)[:count]
    results = [result(m, tau, 0, (n, 0)) for n, m in enumerate(methods) for tau in (4, 5)][:-1]
    values, texts = maps(layers_figure(results))
    last = values[count + 1, methods[-1]]  # after two densities: a gap makes one of its own
    assert np.ma.getmaskarray(np.ma.masked_invalid(last))[:, 1].all()
    assert len(texts[-1]) == 2
