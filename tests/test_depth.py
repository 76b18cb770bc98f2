"""As many programs as shapes, whatever the depth; under an outer trace as many loops."""

import itertools
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax import Edge, Graph, Layer, Measured, Method, Scope, batching, chain, lookahead_masks
from lap_jax.selection import alike
from tests.programs import Counting, work

FEW, MANY = 4, 16


class Deep(NamedTuple):
    """A network of equal layers, and how it is pruned."""

    params: Any
    graph: Graph
    settings: dict[str, Any]


def plain(depth: int, width: int, *window: int) -> tuple[Any, Graph]:
    """Layers one after the other."""
    rng = np.random.default_rng(0)
    shape = (*window, width, width)
    params = {
        f"Layer_{i:02}": {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32)}
        for i in range(depth)
    }
    return params, chain(params, list(params))


def tied(depth: int, width: int) -> tuple[Any, Graph]:
    """Each kernel is read twice, the second time transposed."""
    params, graph = plain(depth, width)
    again = tuple(
        Layer(f"{layer.name} again", layer.path, layer.shape, split=layer.shape, order=(1, 0),
              tied_to=layer.name)
        for layer in graph.layers
    )  # fmt: skip
    names = [name for layer in graph.layers for name in (layer.name, f"{layer.name} again")]
    edges = tuple(Edge(a, b) for a, b in itertools.pairwise(names))
    return params, Graph((*graph.layers, *again), edges)


def stacked(depth: int, width: int) -> tuple[Any, Graph]:
    """All kernels lie in one leaf."""
    params, graph = plain(depth, width)
    leaf = jnp.stack([layer["kernel"] for layer in params.values()])
    layers = tuple(
        Layer(layer.name, "stack/kernel", layer.shape, place=(i,))
        for i, layer in enumerate(graph.layers)
    )
    return {"stack": {"kernel": leaf}}, Graph(layers, graph.edges)


def measured(graph: Graph) -> dict[str, Measured]:
    return {
        layer.name: Measured(*(jnp.arange(1.0, layer.in_size + 1) + i for i in range(3)))
        for layer in graph.layers
    }


SETTINGS: dict[str, dict[str, Any]] = {
    "MP": {"method": "MP"},
    "LAP": {},
    "LAP-backward-seq": {"method": "LAP-backward-seq", "steps": 2},
    "global": {"scope": "global"},
    "channels": {"scope": Scope(unit="channel", outputs=True)},
    "lags": {"method": Method(lags=True)},
    "horizon 2": {"method": Method(horizon=2)},
    "horizon all": {"method": Method(horizon="all")},
    "measured": {},
    "tied": {},
    "stacked": {},
    "stacked, horizon all": {"method": Method(horizon="all")},
}
ONE_BY_ONE = {"LAP-backward-seq": 71, "horizon 2": 8, "horizon all": 8, "stacked, horizon all": 8}
"""What depends on the layer before cannot be one loop: how many equations a layer may add."""


def deep(setting: str, depth: int, width: int) -> Deep:
    """The network of a setting."""
    if setting == "tied":
        params, graph = tied(depth, width)
    elif setting.startswith("stacked"):
        params, graph = stacked(depth, width)
    else:
        params, graph = plain(depth, width, *(3, 3) if setting == "lags" else ())
    settings = SETTINGS[setting]
    if setting == "measured":
        settings = settings | {"measured": measured(graph)}
    return Deep(params, graph, settings)


@pytest.mark.parametrize("setting", SETTINGS)
def test_programs_of_few_layers_serve_many(
    setting: str, count_compilations: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ends and the middle of a network have shapes, and so programs, of their own."""
    for module in (batching, alike):  # as of layers that are large, or lie elsewhere
        monkeypatch.setattr(module, "on_host", lambda operands: False)
    width = 37 + list(SETTINGS).index(setting)  # of no other test
    counts = []
    for depth in (FEW, MANY):
        net = deep(setting, depth, width)
        with count_compilations() as compiled:
            lookahead_masks(net.params, net.graph, 0.5, **net.settings)
        counts.append(len(compiled))
        other = [0.25, *(0.75,) * (depth - 1)] if "scope" not in net.settings else 0.75
        with count_compilations() as again:
            lookahead_masks(net.params, net.graph, other, **net.settings)
        assert not again  # Sparsity is an operand.
    assert counts[0] > 0
    # A stacked leaf has the depth in its shape.
    assert counts[1] <= (counts[0] if setting.startswith("stacked") else 0), counts


def test_masks_by_magnitude_of_small_layers_compile_nothing(
    count_compilations: Counting,
) -> None:
    params, graph = plain(FEW, 61)  # a width of no other test
    with count_compilations() as compiled:
        lookahead_masks(params, graph, 0.5, method="MP")
    assert compiled == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_under_an_outer_trace_the_work_on_kernels_is_written_once(setting: str) -> None:
    found = []
    for depth in (FEW, MANY):
        net = deep(setting, depth, 8)
        program = jax.make_jaxpr(
            lambda params, net=net: lookahead_masks(params, net.graph, 0.5, **net.settings)
        )(net.params)
        found.append(Counter(work(program.jaxpr, net.graph.layers[0].size)))
    few, many = found
    assert sum(few.values()) > 3
    allowed = ONE_BY_ONE.get(setting, 0) * (MANY - FEW)
    assert sum(many.values()) - sum(few.values()) <= allowed, many - few
