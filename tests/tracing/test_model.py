"""Every door that people come in by: what stands for a model and its variables."""

from typing import Any

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import lap_jax
from lap_jax import PruningError, lookahead_masks, measure, trace
from lap_jax.paths import leaves_by_path
from tests.networks import refused

X = jnp.ones((2, 6, 6, 3))


class Convs(nn.Module):
    """With statistics."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
        return self.head(x)

    def head(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(x.mean((1, 2)))


class Dense(nn.Module):
    """Without."""

    def setup(self) -> None:
        self.a, self.b = nn.Dense(5), nn.Dense(2)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(nn.relu(self.a(x)))

    def encode(self, x: jax.Array) -> jax.Array:
        return self.a(x)


class Normed(nnx.Module):
    """NNX, with statistics, random state and an activation."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, deterministic=True, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.dropout(nnx.relu(self.norm(self.conv(x))))
        return self.head(x.mean((1, 2)))


class Statistics(TrainState):
    batch_stats: Any = None


def convs() -> tuple[Any, Any]:
    model = Convs()
    return model, model.init(jax.random.key(0), X)


# ---------------------------------------------------------------- Linen


def test_parameters_without_the_collection() -> None:
    model, x = Dense(), jnp.ones((1, 4))
    variables = model.init(jax.random.key(0), x)
    wanted = trace(model, variables, x)
    assert trace(model, variables["params"], x) == wanted
    assert trace(model.apply, variables["params"], x) == wanted
    assert trace(model.apply, variables, x) == wanted


def test_a_method_of_the_module() -> None:
    model, x = Dense(), jnp.ones((1, 4))
    variables = model.init(jax.random.key(0), x)
    assert trace(model, variables, x, method=Dense.encode).names == ("a",)
    assert trace(model, variables, x, method="encode").names == ("a",)


def test_missing_statistics_are_named() -> None:
    model, variables = convs()
    with refused("['params']", "batch_stats", "model.init"):
        trace(model, variables["params"], X)
    with refused("['params']", "batch_stats"):
        trace(model, {"params": variables["params"]}, X)


def test_a_train_state() -> None:
    model, variables = convs()
    state = Statistics.create(
        apply_fn=model.apply, params=variables["params"], tx=optax.sgd(0.1),
        batch_stats=variables["batch_stats"],
    )  # fmt: skip
    wanted = trace(model, variables, X)
    assert trace(model, state, X) == wanted
    assert trace(state.apply_fn, state, X) == wanted
    plain = Dense()
    params = plain.init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    old = TrainState.create(apply_fn=plain.apply, params=params, tx=optax.sgd(0.1))
    assert trace(plain, old, jnp.ones((1, 4))).names == ("a", "b")
    with refused("Statistics", "state.params", "batch_stats=state.batch_stats"):
        lookahead_masks(state, wanted, 0.5)


def test_whole_variables_are_parameters_with_their_statistics() -> None:
    model, variables = convs()
    graph = trace(model, variables, X)
    wanted = lookahead_masks(variables["params"], graph, 0.5, batch_stats=variables["batch_stats"])
    found = lookahead_masks(variables, graph, 0.5)
    chex.assert_trees_all_equal_structs(found, variables)
    chex.assert_trees_all_equal(found["params"], wanted)
    assert all(np.ndim(mask) == 0 and mask for mask in jax.tree.leaves(found["batch_stats"]))
    pruned = lap_jax.apply_masks(variables, found)
    chex.assert_trees_all_equal(pruned["batch_stats"], variables["batch_stats"])
    chex.assert_trees_all_equal(pruned["params"], lap_jax.apply_masks(variables["params"], wanted))
    declared = lookahead_masks(variables, ["Conv_0", "BatchNorm_0", "Dense_0"], 0.5)
    chex.assert_trees_all_equal(declared, found)


def test_masks_of_the_variables_fit_the_parameters_alone() -> None:
    model, variables = convs()
    masks = lookahead_masks(variables, trace(model, variables, X), 0.5)
    rows = lap_jax.summarize(masks).rows
    assert [row.layer for row in rows] == ["Conv_0", "Dense_0"]
    chex.assert_trees_all_equal(
        lap_jax.apply_masks(variables["params"], masks["params"]),
        lap_jax.apply_masks(variables, masks)["params"],
    )


# ---------------------------------------------------------------- NNX


def test_an_nnx_module_holds_its_own_state() -> None:
    model = Normed(nnx.Rngs(0))
    wanted = trace(model, nnx.state(model), X)
    assert wanted.names == ("conv", "head")
    assert wanted["conv"].norm == "norm"
    assert trace(model, X) == wanted
    assert trace(model, nnx.state(model, nnx.Param), X) == wanted
    masks = lookahead_masks(nnx.state(model, nnx.Param), wanted, 0.5,
                            batch_stats=nnx.state(model, nnx.BatchStat))  # fmt: skip
    assert int(masks["head"]["kernel"].get_value().sum()) == 6


def test_measuring_an_nnx_module() -> None:
    model = Normed(nnx.Rngs(0))
    graph = trace(model, X)
    one = measure(model, X, graph=graph)
    two = measure(model, nnx.state(model), X, graph=graph)
    chex.assert_trees_all_equal(one, two)


def test_an_input_that_is_a_mapping_is_an_input() -> None:
    class OfBatch(Normed):
        def __call__(self, batch: Any) -> jax.Array:
            return super().__call__(batch["image"])

    assert trace(OfBatch(nnx.Rngs(0)), {"image": X}).names == ("conv", "head")


def test_the_state_of_another_module_is_refused() -> None:
    other = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    with refused("'bias'", "nnx.state(model)"):
        trace(Normed(nnx.Rngs(0)), other, X)


# ---------------------------------------------------------------- Equinox


def mlp() -> Any:
    return eqx.nn.MLP(6, 6, 6, 2, key=jax.random.key(0))


def test_an_equinox_module() -> None:
    model, x = mlp(), jnp.ones(6)
    graph = trace(model, x)
    assert [layer.path for layer in graph.layers] == [f"layers/{i}/weight" for i in range(3)]
    assert trace(model, model, x) == graph
    assert trace(lambda model, x: jax.vmap(model)(x), model, x[None]) == graph
    assert trace(model, eqx.filter(model, eqx.is_array), x) == graph


def test_masks_of_an_equinox_module_are_those_of_its_transposed_kernels() -> None:
    model = mlp()
    graph = trace(model, jnp.ones(6))
    masks = lookahead_masks(model, graph, 0.5)
    chex.assert_trees_all_equal_structs(masks, jax.tree.map(lambda _: True, model))
    params = {f"{i}": {"kernel": layer.weight.T} for i, layer in enumerate(model.layers)}
    wanted = lookahead_masks(params, list(params), 0.5)
    for i, layer in enumerate(masks.layers):
        chex.assert_trees_all_equal(layer.weight.T, wanted[f"{i}"]["kernel"])
    pruned = lap_jax.apply_masks(model, masks)
    assert pruned.activation is model.activation
    assert int((pruned.layers[0].weight != 0).sum()) == 18
    assert pruned(jnp.ones(6)).shape == (6,)


def test_training_an_equinox_module_keeps_zeros() -> None:
    model = mlp()
    masks = lookahead_masks(model, trace(model, jnp.ones(6)), 0.5)
    params, rest = eqx.partition(lap_jax.apply_masks(model, masks), eqx.is_array)
    optimizer = lap_jax.keep_pruned(optax.adamw(0.1), masks)
    state = optimizer.init(params)
    grads = eqx.filter_grad(lambda p: (eqx.combine(p, rest)(jnp.ones(6)) ** 2).sum())(params)
    updates, state = optimizer.update(grads, state, params)
    params = eqx.apply_updates(params, updates)
    assert int((params.layers[0].weight != 0).sum()) == 18


def test_a_chain_of_equinox_kernels_is_refused() -> None:
    """They are (out, in), and square ones would give other masks without a word."""
    with refused("MLP", "(out, in)", "trace"):
        lookahead_masks(mlp(), ["layers/0/weight", "layers/1/weight"], 0.5)


# ---------------------------------------------------------------- functions


def test_what_is_no_array_is_part_of_the_function() -> None:
    params = {"w": jnp.ones((3, 2)), "activation": jax.nn.relu, "scale": 2.0}
    graph = trace(lambda p, x: p["activation"](x @ p["w"]) * p["scale"], params, jnp.ones((1, 3)))
    assert graph.names == ("w",)


def test_a_model_without_kernels_says_what_to_pass() -> None:
    with pytest.raises(PruningError, match="reads no kernel"):
        trace(lambda p, x: x * p["scale"], {"scale": jnp.ones(3)}, jnp.ones((1, 3)))


def test_nothing_of_an_equinox_module_is_lost_in_silence() -> None:
    key = jax.random.key(0)

    class Model(eqx.Module):
        tokens: eqx.nn.Embedding
        attention: eqx.nn.MultiheadAttention
        normed: eqx.nn.WeightNorm
        conv: eqx.nn.ConvTranspose1d
        unused: eqx.nn.Linear

        def __call__(self, tokens: jax.Array) -> jax.Array:
            x = jax.vmap(self.tokens)(tokens)
            x = jax.vmap(self.normed)(x + self.attention(x, x, x))
            return self.conv(jax.nn.relu(x).T)

    model = Model(
        eqx.nn.Embedding(7, 4, key=key), eqx.nn.MultiheadAttention(2, 4, key=key),
        eqx.nn.WeightNorm(eqx.nn.Linear(4, 6, key=key)), eqx.nn.ConvTranspose1d(6, 3, 3, key=key),
        eqx.nn.Linear(4, 4, key=key),
    )  # fmt: skip
    graph = trace(model, jnp.zeros(5, int))
    assert graph.barriers == ()
    arrays = leaves_by_path(eqx.filter(model, eqx.is_array))
    wanted = {path for path, leaf in arrays.items() if leaf.ndim > 1}
    held, unread = {layer.path for layer in graph.layers}, {each.path for each in graph.unread}
    assert held | unread == wanted
    assert not held & unread
    assert unread == {"normed/g", "conv/bias", "unused/weight"}
    assert [each.path for each in graph.unread if each.is_weight] == ["unused/weight"]
