"""Masks on a mesh: the same bits, laid out as the kernels; weights and scores stay where they are.

The conftest simulates eight devices.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import lap_jax
from lap_jax import Scope, lookahead_masks

NAMES = ["Dense_0", "Dense_1", "Dense_2"]
LAYOUTS = {
    "rows": P("a", None),
    "columns": P(None, "a"),
    "both": P("a", "b"),
    "both, the other way": P("b", "a"),
    "columns over all": P(None, ("a", "b")),
    "rows over all": P(("a", "b"), None),
    "replicated": P(),
}
KINDS = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"


class Collective(NamedTuple):
    """An operation between devices: its kind, and how many numbers its largest result has."""

    kind: str
    numbers: int


def collectives(program: jax.stages.Compiled) -> list[Collective]:
    hlo = program.as_text()
    assert hlo is not None
    found = []
    for result, kind in re.findall(rf"= (.*?) ({KINDS})(?:-start)?\(", hlo):
        shapes = re.findall(r"\w+\[([\d,]*)\]", result)
        sizes = [math.prod(int(size) for size in shape.split(",") if size) for shape in shapes]
        found.append(Collective(kind, max(sizes)))
    return found


def mesh(axis_type: AxisType = AxisType.Auto) -> Mesh:
    devices = np.array(jax.devices("cpu")[:8]).reshape(4, 2)
    return Mesh(devices, ("a", "b"), axis_types=(axis_type,) * 2)


def network(ties: bool = False) -> Any:
    rng = np.random.default_rng(7)
    shapes = zip(NAMES, [(256, 384), (384, 512), (512, 128)], strict=True)
    params = {name: {"kernel": rng.normal(size=shape).astype(np.float32)} for name, shape in shapes}
    params["Dense_1"]["kernel"][5] *= 1e3
    return jax.tree.map(np.round, params) if ties else params


def assert_lies(tree: Any, sharding: NamedSharding) -> None:
    """All arrays of the tree lie that way."""
    for leaf in jax.tree.leaves(tree):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), leaf.sharding


def masked(params: Any, **settings: Any) -> Any:
    return lookahead_masks(params, NAMES, settings.pop("sparsity", 0.9), **settings)


SETTINGS: dict[str, dict[str, Any]] = {
    "MP": {"method": "MP"},
    "LAP": {},
    "LAP-backward-seq": {"method": "LAP-backward-seq", "steps": 2},
    "RP": {"method": "RP", "key": jax.random.key(3)},
    "global": {"scope": "global"},
    "channels": {"scope": Scope(unit="channel", outputs=True)},
    "blocks": {"scope": Scope(unit=(4, 4))},
    "2:4": {"method": "MP", "scope": Scope(group=(2, 4)), "sparsity": 0.5},
}


def quick(settings: Iterable[str], *names: str) -> list[Any]:
    """The settings, all but those of some names for `make test-slow`."""
    return [
        setting if setting in names else pytest.param(setting, marks=pytest.mark.slow)
        for setting in settings
    ]


@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
@pytest.mark.parametrize("setting", quick(SETTINGS, "MP", "LAP", "channels", "2:4"))
def test_masks_are_those_of_one_device_and_lie_as_the_kernels(setting: str, ties: bool) -> None:
    params = network(ties)
    wanted = masked(params, **SETTINGS[setting])
    for layout in LAYOUTS.values() if setting == "LAP" else [P("a", "b"), P(None, ("a", "b"))]:
        sharding = NamedSharding(mesh(), layout)
        found = masked(jax.device_put(params, sharding), **SETTINGS[setting])
        chex.assert_trees_all_equal(found, wanted, custom_message=str(layout))
        assert_lies(found, sharding)


@pytest.mark.parametrize("setting", ["MP", "LAP", "LAP-backward-seq", "global"])
@pytest.mark.parametrize(
    "layout",
    [
        name
        if name in ("replicated", "rows", "both", "columns over all")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in LAYOUTS
    ],
)
def test_no_weight_and_no_score_leaves_its_device(
    layout: str, setting: str, record_property: Any
) -> None:
    """What crosses are counts of pivots, maxima, and sums per neuron: a thousand numbers here.

    The smallest part of a kernel that a device holds has 8,192 weights; a gathered kernel, 65,536.
    """
    params = jax.device_put(network(), NamedSharding(mesh(), LAYOUTS[layout]))
    compiled = jax.jit(lambda params: masked(params, **SETTINGS[setting])).lower(params).compile()
    found = collectives(compiled)
    largest = {kind: max(c.numbers for c in found if c.kind == kind) for kind, _ in found}
    record_property("largest", largest)
    print(f"{setting}, {layout}: {len(found)} collectives, largest {largest}")
    assert bool(found) == (layout != "replicated")
    assert max(largest.values(), default=0) <= 2048, largest


@pytest.mark.parametrize("setting", quick(["MP", "LAP", "LAP-backward-seq", "global"], "MP", "LAP"))
def test_kernels_of_one_shape_may_lie_in_different_ways(setting: str) -> None:
    rng = np.random.default_rng(2)
    params = {
        f"Dense_{i}": {"kernel": rng.normal(size=(256, 256)).astype(np.float32)} for i in range(3)
    }
    layouts = dict(zip(params, [P("a", "b"), P("b", "a"), P(None, "a")], strict=True))
    placed = {
        name: jax.device_put(layer, NamedSharding(mesh(), layouts[name]))
        for name, layer in params.items()
    }
    pruned = jax.jit(lambda params: lookahead_masks(params, list(params), 0.9, **SETTINGS[setting]))
    program = pruned.lower(placed).compile()
    assert max(c.numbers for c in collectives(program)) <= 2048
    for found in (pruned(placed), lookahead_masks(placed, list(placed), 0.9, **SETTINGS[setting])):
        chex.assert_trees_all_equal(found, pruned(params))
        for name, layer in found.items():
            assert_lies(layer, NamedSharding(mesh(), layouts[name]))


def test_the_reading_of_the_program_sees_a_gathered_kernel() -> None:
    """The test above can fail: a sort gathers the scores."""
    sharded = jax.device_put(network(), NamedSharding(mesh(), P("a", "b")))["Dense_0"]["kernel"]
    compiled = jax.jit(lambda w: jnp.sort(jnp.abs(w), axis=None)[1000]).lower(sharded).compile()
    assert max(c.numbers for c in collectives(compiled)) >= 8192


def test_experts_over_devices() -> None:
    """Kernels with a leading axis of experts, each expert on a device of its own."""
    sharding = NamedSharding(mesh(), P(("a", "b")))
    experts = jax.tree.map(
        lambda kernel: np.stack([np.roll(kernel, i) * (i + 1) for i in range(8)]), network()
    )
    pruned = jax.jit(jax.vmap(masked))
    found = pruned(jax.device_put(experts, sharding))
    wanted = pruned(experts)
    chex.assert_trees_all_equal(found, wanted)
    assert_lies(found, sharding)
    program = pruned.lower(jax.device_put(experts, sharding)).compile()
    assert max((c.numbers for c in collectives(program)), default=0) <= 2048


def test_a_user_s_scores_stay_where_they_are() -> None:
    scores = {name: np.abs(leaf["kernel"]) for name, leaf in network().items()}
    sharding = NamedSharding(mesh(), P("a", "b"))
    found = lap_jax.masks_from_scores(jax.device_put(scores, sharding), 0.8)
    wanted = lap_jax.masks_from_scores(scores, 0.8)
    chex.assert_trees_all_equal(found, wanted)
    assert_lies(found, sharding)


@pytest.mark.parametrize("jitted", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("setting", ["LAP", "LAP-backward-seq", "global", "2:4"])
def test_explicit_axes(setting: str, jitted: bool) -> None:
    """The default of `jax.make_mesh`."""
    params = network()
    sharding = NamedSharding(mesh(AxisType.Explicit), P("a", "b"))
    placed = jax.device_put(params, sharding)

    def pruned(params: Any) -> Any:
        masks = masked(params, **SETTINGS[setting])
        return masks, lap_jax.apply_masks(params, masks)

    masks, kept = (jax.jit(pruned) if jitted else pruned)(placed)
    wanted = masked(params, **SETTINGS[setting])
    chex.assert_trees_all_equal(masks, wanted)
    assert_lies((masks, kept), sharding)


def test_scores_on_explicit_axes() -> None:
    placed = jax.device_put(network(), NamedSharding(mesh(AxisType.Explicit), P("a", "b")))
    found = lap_jax.lookahead_scores(placed, NAMES)
    chex.assert_trees_all_equal(found, lap_jax.lookahead_scores(network(), NAMES))
    masks = lap_jax.masks_from_scores(found, 0.5)
    assert int(masks["Dense_0"].sum()) == 256 * 384 // 2


def traced_network() -> tuple[Any, lap_jax.Graph]:
    """A residual block with heads, a norm and stacked layers, and its graph."""
    rng = np.random.default_rng(11)
    shapes = {"stem": (64, 128), "heads": (128, 8, 32), "back": (256, 128), "stack": (2, 128, 128)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    params["scale"] = rng.normal(size=128).astype(np.float32)

    def apply(p: Any, x: jax.Array) -> jax.Array:
        h = x @ p["stem"]
        y = jnp.einsum("bi,ihd->bhd", h * p["scale"], p["heads"]).reshape(x.shape[0], -1)
        h = h + jax.nn.relu(y) @ p["back"]
        return jax.lax.scan(lambda h, w: (h + h @ w, None), h, p["stack"])[0]

    return params, lap_jax.trace(apply, params, jnp.ones((1, 64)))


@pytest.mark.parametrize("horizon", [1, "all"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_traced_graphs_give_the_same_bits_too(horizon: Any, kind: AxisType) -> None:
    params, graph = traced_network()
    method = lap_jax.METHODS["LAP"]._replace(horizon=horizon)
    wanted = lookahead_masks(params, graph, 0.9, method=method)
    places = {
        "stem": P("a", "b"),
        "heads": P("a", "b", None),
        "back": P("b", "a"),
        "stack": P(None, "a", "b"),
        "scale": P("a"),
    }
    laid = {
        name: jax.device_put(leaf, NamedSharding(mesh(kind), places[name]))
        for name, leaf in params.items()
    }
    found = lookahead_masks(laid, graph, 0.9, method=method)
    chex.assert_trees_all_equal(found, wanted)
