"""Masks of whole neurons against NumPy, and what `shrink` makes of them against a hand's count."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lap_jax
from lap_jax import Measured, Method, PruningError, Scope
from tests import zoo
from tests.networks import mlp

NEURON = Scope(unit="neuron")
NAMES = ("Dense_0", "Dense_1", "Dense_2")
PARAMS: Any = mlp()
KERNELS = [np.asarray(PARAMS[name]["kernel"]) for name in NAMES]
CHAIN = lap_jax.chain(PARAMS, NAMES)


def masks(params: Any = PARAMS, sparsity: Any = 0.5, **options: Any) -> Any:
    options = {"scope": NEURON, **options}
    return lap_jax.lookahead_masks(params, CHAIN, sparsity, **options)


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    found = np.zeros(len(scores), bool)
    found[np.argsort(-scores, kind="stable")[:count]] = True
    return found


def expected(first: np.ndarray, second: np.ndarray) -> Any:
    """All that belongs to two hidden layers of which these neurons stay."""
    return {
        "Dense_0": {"kernel": np.broadcast_to(first, KERNELS[0].shape), "bias": first},
        "Dense_1": {"kernel": first[:, None] & second, "bias": second},
        "Dense_2": {"kernel": np.broadcast_to(second[:, None], KERNELS[2].shape), "bias": True},
    }


def norms(kernels: list[np.ndarray], layer: int) -> np.ndarray:
    """Of each hidden neuron, how much the block changes without it: of a matrix of rank one."""
    before, after = kernels[layer], kernels[layer + 1]
    return np.array([np.linalg.norm(np.outer(before[:, k], after[k])) for k in range(len(after))])


def test_lookahead_is_the_change_of_the_block() -> None:
    found = masks()
    chex.assert_trees_all_equal(
        found, expected(largest(norms(KERNELS, 0), 4), largest(norms(KERNELS, 1), 4))
    )
    traced = jax.jit(lambda params: masks(params))(PARAMS)
    chex.assert_trees_all_equal(found, traced)


def test_magnitude_own_scores_and_random_are_baselines() -> None:
    columns = [np.linalg.norm(kernel, axis=0) for kernel in KERNELS[:2]]
    chex.assert_trees_all_equal(
        masks(method="MP"), expected(largest(columns[0], 4), largest(columns[1], 4))
    )

    def own(kernel: jax.Array, gradients: jax.Array) -> jax.Array:
        return jnp.abs(kernel * gradients)

    gradients = jax.tree.map(lambda leaf: np.cos(7 * np.asarray(leaf)), PARAMS)
    taylor = [np.linalg.norm(kernel * np.cos(7 * kernel), axis=0) for kernel in KERNELS[:2]]
    chex.assert_trees_all_equal(
        masks(method=own, tensors={"gradients": gradients}),
        expected(largest(taylor[0], 4), largest(taylor[1], 4)),
    )
    drawn = masks(method="RP", key=jax.random.key(1))
    assert [int(drawn[name]["bias"].sum()) for name in NAMES[:2]] == [4, 4]
    other = masks(method="RP", key=jax.random.key(2))
    assert any((drawn[name]["bias"] != other[name]["bias"]).any() for name in NAMES[:2])


def test_measured_activations_take_the_place_of_what_leads_to_a_neuron() -> None:
    activations = np.linspace(2.0, 0.1, 9).astype(np.float32)
    scores = activations * np.linalg.norm(KERNELS[1], axis=1)
    found = masks(measured={"Dense_1": Measured(input=jnp.asarray(activations))})
    assert found["Dense_0"]["bias"].tolist() == largest(scores, 4).tolist()


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_an_order_looks_at_neurons_that_are_gone_already(order: Any) -> None:
    kernels, kept = [kernel.copy() for kernel in KERNELS], [np.ones(9, bool), np.ones(8, bool)]
    for counts in ((6, 6), (4, 4)):
        for layer in (0, 1) if order == "forward" else (1, 0):
            scores = np.where(kept[layer], norms(kernels, layer), -1)
            kept[layer] = largest(scores, counts[layer])
            kernels[layer] = kernels[layer] * kept[layer]
            kernels[layer + 1] = kernels[layer + 1] * kept[layer][:, None]
    found = masks(method=Method(order=order, steps=2))
    chex.assert_trees_all_equal(found, expected(*kept))


def test_all_neurons_can_compete() -> None:
    scores = [norms(KERNELS, layer) for layer in (0, 1)]
    normalized: Any = (
        ("none", scores),
        ("norm", [each / np.linalg.norm(each) for each in scores]),
    )
    for normalize, given in normalized:
        every = largest(np.concatenate(given), 8)
        found = masks(scope=Scope("global", normalize, unit="neuron"))
        chex.assert_trees_all_equal(found, expected(every[:9], every[9:]))
    lamp = masks(scope=Scope("global", "lamp", unit="neuron"))
    assert sum(int(lamp[name]["bias"].sum()) for name in NAMES[:2]) == 8
    floor = masks(sparsity=0.9, scope=Scope("global", unit="neuron", at_least=2))
    assert min(int(floor[name]["bias"].sum()) for name in NAMES[:2]) == 2


def test_earlier_masks_are_gone_on_from() -> None:
    earlier = masks()
    further = masks(sparsity=0.75, masks=earlier)
    for name in NAMES[:2]:
        assert int(further[name]["bias"].sum()) == 2
        assert not (further[name]["bias"] & ~earlier[name]["bias"]).any()
    with pytest.raises(PruningError, match=r"^group 'Dense_0': the sparsity keeps 7 neurons, the "):
        masks(sparsity=0.25, masks=earlier)


@pytest.mark.parametrize("reconnect", [True, False])
def test_neurons_go_while_training(reconnect: bool) -> None:
    schedule = ((1, 0.25), (3, 0.5))
    optimizer = lap_jax.prune_in_training(
        optax.sgd(0.1), CHAIN, schedule, scope=NEURON, reconnect=reconnect
    )
    params, state = PARAMS, optimizer.init(PARAMS)
    update = jax.jit(optimizer.update)
    for _ in range(4):
        now = params
        updates, state = update(jax.tree.map(jnp.cos, params), state, params)
        params = optax.apply_updates(params, updates)
    found = lap_jax.masks_in(state)
    if reconnect:  # the last pruning saw the parameters before the last update
        wanted = masks(now)
        for name in NAMES:
            assert (found[f"{name}/kernel"] == wanted[name]["kernel"]).all()
    final = lap_jax.final_params(params, state)
    assert [int((final[name]["bias"] != 0).sum()) for name in NAMES] == [4, 4, 5]
    assert int((final["Dense_1"]["kernel"] != 0).sum()) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effective": True}, "effective goes with weights"),
        ({"method": Method(lags=True)}, "lags goes with weights"),
        ({"method": "LFP"}, "direction is 'forward': a neuron lies between"),
        ({"method": "RP"}, "random pruning needs a key"),
        ({"method": "LAP-forward", "scope": Scope("global", unit="neuron")}, "layer after layer"),
    ],
)
def test_what_says_nothing_of_neurons_is_refused(options: Any, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        masks(**options)


def test_scores_without_a_graph_tell_no_neurons() -> None:
    with pytest.raises(PruningError, match=r"^scope: whole neurons are told by a graph"):
        lap_jax.masks_from_scores({"a": jnp.ones((2, 2))}, 0.5, scope=NEURON)


# ---------------------------------------------------------------- what shrink makes of it


def random(variables: Any) -> Any:
    """Nothing is zero, and variances are positive."""
    leaves, structure = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, [jnp.abs(each) + 0.1 * (each > 0) for each in drawn])


def sizes(variables: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def shrunk(
    model: Any, x: jax.Array, sparsity: Any, pick: Callable[[Any], Any] = lambda tree: tree
) -> tuple[Any, lap_jax.Graph, Any]:
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    variables = random(shapes)
    graph = lap_jax.trace(model, variables, x)
    own = pick(variables)
    found = lap_jax.lookahead_masks(
        own, graph, sparsity, scope=NEURON, batch_stats=variables.get("batch_stats")
    )
    return lap_jax.shrink(model, variables, found, x).variables, graph, (variables, found)


def test_half_of_a_decoder_is_what_a_hand_counts() -> None:
    model = zoo.Llama(2, 16, 8, 4, 24, 11, scan=True, repeat=False)
    x = jnp.zeros((1, 5), jnp.int32)
    small, _, (large, found) = shrunk(model, x, 0.5)
    # stream 16 -> 8, two of four groups of two heads of two channels, hidden 24 -> 12
    attention = 8 * 8 + 2 * 8 * 4 + 8 * 8
    assert sizes(small) == 2 * 11 * 8 + 8 + 2 * (attention + 3 * 8 * 12 + 2 * 8)
    layers = jax.tree.map(np.asarray, large["params"]["layers"])
    mask = found["params"]["layers"]
    for step in (0, 1):
        # a head is scored by the values that it brings, times those that read them
        values = layers["v"]["kernel"][step].reshape(16, 4, 1, 2)
        out = layers["o"]["kernel"][step].reshape(4, 2, 2, 16)
        change = (values**2).sum(0)[..., None] * (out**2).sum(-1)[..., None]
        kept = largest(change.sum((1, 2, 3)), 2)
        assert (mask["v"]["kernel"][step].any(0).reshape(4, 2).all(1) == kept).all()
        assert (mask["q"]["kernel"][step].any(0).reshape(4, 4).all(1) == kept).all()
        gated = [np.linalg.norm(layers[name]["kernel"][step], axis=0) for name in ("gate", "up")]
        scores = gated[0] * gated[1] * np.linalg.norm(layers["down"]["kernel"][step], axis=1)
        assert (mask["up"]["kernel"][step].any(0) == largest(scores, 12)).all()


def test_a_stage_of_a_residual_network_and_its_statistics_go() -> None:
    model, x = zoo.ResNet((1,), 4, 3), jnp.ones((1, 8, 8, 3))
    small, graph, (_, found) = shrunk(model, x, 0.5)
    kernels = 49 * 3 * 2 + 2 * 2 + 9 * 2 * 2 + 2 * 2 * 8 + 8 * 3 + 3
    normed = 3 * 2 + 2 * 8  # channels behind norms
    assert sizes(small["params"]) == kernels + 2 * normed
    assert sizes(small["batch_stats"]) == 2 * normed
    stats = found["batch_stats"]["Bottleneck_0"]["BatchNorm_2"]
    assert stats["mean"].shape == (16,)
    assert int(stats["mean"].sum()) == 8
    assert [group.kind for group in graph.neurons.free].count("streams") == 1


def test_heads_and_neurons_alone_of_an_encoder() -> None:
    model, x = zoo.ViT(1, 8, 2, 16, 4, 3), jnp.ones((1, 8, 8, 3))
    sparsity = {"heads": 0.5, "neurons": 0.5, "streams": 0.0}
    small, _, (large, _) = shrunk(model, x, sparsity, lambda tree: tree["params"])
    removed = 3 * (8 * 4 + 4) + 4 * 8 + 8 * 8 + 8 + 8 * 8
    assert sizes(small) == sizes(large) - removed


def test_depthwise_and_grouped_convolutions() -> None:
    rng = np.random.default_rng(0)
    shapes = {"a": (1, 1, 2, 8), "depth": (3, 3, 1, 8), "group": (3, 3, 2, 8), "c": (8, 3)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32)
              for name, shape in shapes.items()}  # fmt: skip

    def model(p: Any, x: jax.Array) -> jax.Array:
        def conv(x: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
            return jax.nn.relu(
                jax.lax.conv_general_dilated(
                    x, kernel, (1, 1), "SAME", feature_group_count=groups,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            )  # fmt: skip

        x = conv(conv(conv(x, p["a"], 1), p["depth"], 8), p["group"], 4)
        return x.mean((1, 2)) @ p["c"]

    x = jnp.ones((1, 4, 4, 2))
    graph = lap_jax.trace(model, params, x)
    found = lap_jax.lookahead_masks(params, graph, 0.5, scope=NEURON)
    small = lap_jax.shrink(model, params, found, x).variables
    assert {name: leaf.shape for name, leaf in small.items()} == {
        "a": (1, 1, 2, 4), "depth": (3, 3, 1, 4), "group": (3, 3, 2, 4), "c": (4, 3)}  # fmt: skip


@pytest.mark.parametrize("scan", [pytest.param(False, marks=pytest.mark.slow), True])
def test_single_queries_go_and_the_same_class_takes_what_is_left(scan: bool) -> None:
    """Two of four queries of each key: by hand, and in a decoder of fewer heads."""
    sizes: Any = {"layers": 2, "width": 16, "kv_heads": 2, "hidden": 24, "vocabulary": 11}
    model = zoo.Llama(**sizes, heads=8, head_size=2, scan=scan, repeat=False)
    x = jnp.arange(5)[None]
    variables = random(jax.eval_shape(lambda: model.init(jax.random.key(0), x)))
    graph = lap_jax.trace(model, variables, x)
    scope = Scope(unit="neuron", queries=True)
    found = lap_jax.lookahead_masks(variables, graph, {"heads": 0.5, "*": 0.0}, scope=scope)
    small = lap_jax.shrink(model, variables, found, x)
    for step in range(2):
        own = jax.tree.map(lambda leaf, at=step: np.asarray(leaf[at] if scan else leaf),
                           [tree["params"]["layers" if scan else f"layers_{step}"]
                            for tree in (variables, found)])  # fmt: skip
        layer, mask = own
        # a query is scored by the values that it brings, times those that read them, of all keys
        values = (layer["v"]["kernel"].reshape(16, 2, 1, 2) ** 2).sum(0)
        out = (layer["o"]["kernel"].reshape(2, 4, 2, 16) ** 2).sum(-1)
        kept = largest((values * out).sum((0, 2)), 2)
        rows = np.broadcast_to(kept[:, None], (2, 4, 2)).ravel()
        assert (mask["q"]["kernel"] == rows).all()
        assert (mask["o"]["kernel"] == rows[:, None]).all()
        assert mask["k"]["kernel"].all()
        assert mask["v"]["kernel"].all()
    fewer = zoo.Llama(**sizes, heads=4, head_size=2, scan=scan, repeat=False)
    chex.assert_trees_all_close(
        fewer.apply(small.variables, x),
        model.apply(lap_jax.apply_masks(variables, found), x), rtol=1e-5,
    )  # fmt: skip


def test_keys_go_and_then_single_queries_of_those_that_are_left() -> None:
    model = zoo.Llama(1, 16, 8, 2, 24, 11, repeat=False)
    x = jnp.zeros((1, 5), jnp.int32)
    variables = random(jax.eval_shape(lambda: model.init(jax.random.key(0), x)))
    graph = lap_jax.trace(model, variables, x)
    levels = {"heads": 0.5, "*": 0.0}
    first = lap_jax.lookahead_masks(variables, graph, levels, scope=NEURON)
    scope = Scope(unit="neuron", queries=True)
    both = lap_jax.lookahead_masks(variables, graph, levels, scope=scope, masks=first)
    small = lap_jax.shrink(model, variables, both, x).variables["params"]["layers_0"]
    assert {name: small[name]["kernel"].shape for name in "qkvo"} == {
        "q": (16, 4), "k": (16, 2), "v": (16, 2), "o": (4, 16),
    }  # fmt: skip
