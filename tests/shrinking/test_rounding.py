"""Widths in multiples: as many dead neurons stay as fill a group, and nothing else changes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lap_jax
from tests import zoo
from tests.networks import refused
from tests.shrinking.held import held, normal, trains_alike

X = normal(5, 6)
PARAMS = {"a": normal(6, 20), "b": normal(20, 17), "c": normal(17, 3)}


def model(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"] + 0.1) @ p["c"]


MASKS = lap_jax.lookahead_masks(
    PARAMS, ["a", "b", "c"], {"a": 0.9, "b": 0.95, "c": 0.8}, method="MP"
)


def widths(small: lap_jax.Small) -> dict[str, tuple[int, ...]]:
    return {path: each.small for path, each in small.kept.items()}


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("multiple", [2, 4, 8])
def test_widths_are_the_next_multiples(multiple: int, fold: bool) -> None:
    plain = widths(held(model, PARAMS, X, masks=MASKS, fold=fold))
    found = widths(held(model, PARAMS, X, masks=MASKS, fold=fold, multiple_of=multiple))
    sides = [("a", 1), ("b", 0), ("b", 1), ("c", 0)]
    for path, axis in sides:
        assert found[path][axis] % multiple == 0
        assert found[path][axis] >= plain[path][axis]
    assert any(found[path][axis] < PARAMS[path].shape[axis] for path, axis in sides)
    if multiple == 2 and fold:  # single neurons are filled in, not whole blocks
        assert all(found[path][axis] - plain[path][axis] < 2 for path, axis in sides)


def test_neurons_without_weights_fill_up_first() -> None:
    """Else what leads to a dead neuron, and was dead as it was, would be computed again."""
    params = {"a": normal(6, 12), "b": normal(12, 12), "c": normal(12, 3)}
    masks = {name: np.zeros(leaf.shape, bool) for name, leaf in params.items()}
    masks["a"][:, :6] = True
    for i in range(3):
        masks["b"][i, i] = masks["c"][i] = True
    masks["b"][3:6, 3:6] = True  # neurons 3 to 5 of b read three of a, and nobody reads them
    small = held(lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"], params, X,
                 masks=masks, multiple_of=4)  # fmt: skip
    assert widths(small) == {"a": (6, 4), "b": (4, 4), "c": (4, 3)}


def test_a_group_is_never_wider_than_it_was() -> None:
    found = held(model, PARAMS, X, masks=MASKS, multiple_of=32)
    assert widths(found) == {"a": (6, 20), "b": (20, 17), "c": (17, 3)}


def test_a_multiple_of_one_changes_nothing() -> None:
    plain = held(model, PARAMS, X, masks=MASKS)
    assert widths(held(model, PARAMS, X, masks=MASKS, multiple_of=1)) == widths(plain)


def test_a_group_without_neurons_gets_none() -> None:
    """All that is left is a constant: no neuron can be woken, and the search ends."""
    nothing = {path: np.zeros(leaf.shape, bool) for path, leaf in PARAMS.items()}
    small = held(model, PARAMS, X, masks=nothing, multiple_of=4)
    assert small.parameters[1] == held(model, PARAMS, X, masks=nothing).parameters[1]


def test_neurons_that_nothing_can_reach_end_the_search() -> None:
    """Before the odd neuron there is nothing left to lead from."""
    params = {"a": normal(1, 9), "b": normal(9, 3)}
    masks = {"a": np.zeros((1, 9), bool), "b": np.ones((9, 3), bool)}
    masks["a"][0, :3] = True
    small = held(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, normal(2, 1), masks=masks,
                 multiple_of=4)  # fmt: skip
    assert widths(small) == {"a": (1, 4), "b": (4, 3)}


class Residual(nn.Module):
    """Convolutions with batch norms and a depthwise one, a residual stream, and a gate."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(10, (3, 3))(x)
        y = nn.relu(
            nn.BatchNorm(use_running_average=not train)(nn.Conv(14, (1, 1), use_bias=False)(x))
        )
        y = nn.relu(nn.Conv(14, (3, 3), feature_group_count=14)(y))
        x = (x + nn.Conv(10, (1, 1))(y)).mean((1, 2))
        hidden = nn.sigmoid(nn.Dense(15)(x)) * nn.Dense(15)(x)
        return nn.Dense(4)(nn.Dropout(0.1, deterministic=not train)(hidden))


def pruned(net: nn.Module, x: jax.Array) -> tuple[Any, Any]:
    """A network, and masks of single weights that leave odd numbers of neurons."""
    variables = net.init(jax.random.key(0), x)
    graph = lap_jax.trace(net, variables, x)
    scope = lap_jax.Scope(unit="neuron")
    masks = lap_jax.lookahead_masks(
        variables["params"], graph, 0.38, scope=scope, batch_stats=variables.get("batch_stats")
    )
    return variables, {"params": masks}


@pytest.mark.parametrize("fold", [pytest.param(True, marks=pytest.mark.slow), False])
def test_streams_gates_and_depthwise_convolutions(fold: bool) -> None:
    x = normal(2, 4, 4, 3)
    net = Residual()
    variables, masks = pruned(net, x)
    plain = widths(held(net.apply, variables, x, masks=masks, fold=fold))
    small = held(net.apply, variables, x, masks=masks, fold=fold, multiple_of=4)
    found = widths(small)
    odd = {path for path, shape in plain.items() if path.endswith("kernel") and shape[-1] % 4}
    assert odd >= {"Conv_0/kernel", "Conv_1/kernel", "Dense_0/kernel"}
    for path, shape in found.items():
        assert shape[-1] % 4 == 0, path
    assert small.parameters[1] < small.parameters[0]


@pytest.mark.slow
def test_it_trains_as_the_masked_network_does() -> None:
    x = normal(8, 4, 4, 3)
    net = Residual()
    variables, masks = pruned(net, x)
    masked = {**variables, "params": lap_jax.apply_masks(variables["params"], masks["params"])}
    small = lap_jax.shrink(net, variables, masks, x, fold=False, multiple_of=4)
    trains_alike(net, small, masked, masks, x, jnp.arange(8) % 4)


def test_layers_of_a_stack() -> None:
    params = {"a": normal(3, 4, 9), "b": normal(3, 9, 4)}

    def stack(p: Any, x: jax.Array) -> jax.Array:
        return lax.scan(lambda x, w: (x + jnp.tanh(x @ w["a"]) @ w["b"], None), x, p)[0]

    masks = {"a": np.ones((3, 4, 9), bool), "b": np.ones((3, 9, 4), bool)}
    for layer, count in enumerate((1, 5, 2)):
        masks["b"][layer, count:] = False
    together = held(stack, params, normal(2, 4), masks=masks, multiple_of=4)
    assert widths(together) == {"a": (3, 4, 8), "b": (3, 8, 4)}
    apart = held(stack, params, normal(2, 4), masks=masks, multiple_of=4, unstack=True)
    assert {path: shape[-1] for path, shape in widths(apart).items() if path[0] == "a"} == {
        "a/0": 4, "a/1": 8, "a/2": 4,
    }  # fmt: skip


@pytest.mark.slow
def test_a_decoder_keeps_its_heads_and_rounds_its_neurons() -> None:
    net = zoo.Llama(layers=2, width=16, heads=4, kv_heads=2, hidden=24, vocabulary=30)
    tokens = jnp.arange(8).reshape(1, 8)
    variables, masks = pruned(net, tokens)
    plain = widths(lap_jax.shrink(net, variables, masks, tokens))
    found = widths(lap_jax.shrink(net, variables, masks, tokens, multiple_of=8))
    for path, shape in found.items():
        if "down" in path or "up" in path or "gate" in path:
            axis = 0 if "down" in path else 1
            assert shape[axis] % 8 == 0
            assert plain[path][axis] % 8
    assert any("down" in path for path in found)


@pytest.mark.parametrize("value", [0, -8, 2.5, True, "8"])
def test_what_is_no_multiple_is_refused(value: Any) -> None:
    with refused("multiple_of is", repr(value)):
        lap_jax.shrink(model, PARAMS, MASKS, X, multiple_of=value)
