"""Stacks taken apart: each layer keeps its own neurons, on disk, in states and in training too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax import export, lax
from jax.sharding import NamedSharding, PartitionSpec

import lap_jax
from lap_jax.shrinking.stacks import Stacks
from tests import zoo
from tests.shrinking.held import held, normal, trains_alike

X = normal(2, 4)
PARAMS = {"a": normal(3, 4, 6), "b": normal(3, 6, 4)}
"""Three residual blocks of six neurons."""


def block(x: jax.Array, w: Any) -> tuple[jax.Array, None]:
    return x + jnp.tanh(x @ w["a"]) @ w["b"], None


def model(p: Any, x: jax.Array) -> jax.Array:
    return lax.scan(block, x, p)[0]


def ragged(a: Any, b: Any) -> dict[str, np.ndarray]:
    """Masks of whole neurons: of one all that leads to it is pruned, of others what leads out."""
    masks = {"a": np.ones(np.shape(a), bool), "b": np.ones(np.shape(b), bool)}
    masks["a"][1, :, 2] = False
    for layer, count in enumerate((1, 5, 2)):
        masks["b"][layer, count:] = False
    return masks


def alive(masks: Any) -> list[int]:
    """Count the neurons of each layer that something leads to, and something out of."""
    return [int((a.any(0) & b.any(1)).sum()) for a, b in zip(masks["a"], masks["b"], strict=True)]


MASKS = ragged(**PARAMS)


def shapes(counts: list[int]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {f"a/{i}": (4, n) for i, n in enumerate(counts)}
    return found | {f"b/{i}": (n, 4) for i, n in enumerate(counts)}


@pytest.mark.parametrize("fold", [True, False])
def test_each_layer_keeps_the_neurons_that_live(fold: bool) -> None:
    counts = alive(MASKS)
    assert counts == [1, 4, 2]
    small = held(model, PARAMS, X, shapes(counts), MASKS, unstack=True, fold=fold)
    assert list(small.variables["a"]) == ["0", "1", "2"]
    assert small.parameters == (144, 8 * sum(counts))
    assert small.work == (2 * 144, 2 * 8 * sum(counts))
    equal = held(model, PARAMS, X, masks=MASKS, fold=fold)
    assert equal.variables["a"].shape == (3, 4, max(counts))
    assert str(small).splitlines()[4].split() == ["a/2", "4x6", f"4x{counts[2]}", "33.3%"]


def test_random_masks_leave_the_neurons_that_live() -> None:
    """And of a layer that is gone as a whole, empty arrays."""
    rng = np.random.default_rng(3)
    masks = {name: rng.random(leaf.shape) < 0.3 for name, leaf in PARAMS.items()}
    masks["b"][1] = False
    small = held(model, PARAMS, X, masks=masks, unstack=True)
    layers = [small.variables["a"][str(i)].shape for i in range(3)]
    assert [shape[1] for shape in layers] == alive(masks)
    assert layers[1] == (0, 0)
    assert 0 < small.parameters[1] < held(model, PARAMS, X, masks=masks).parameters[1]


def cast(p: Any, x: jax.Array) -> jax.Array:
    """Kernels are scaled, rounded and turned before the loop."""
    scale = jnp.arange(1.0, 4)[:, None, None]
    a = (p["a"] * scale).astype(jnp.bfloat16).astype(x.dtype)
    turned = {"a": a, "b": jnp.moveaxis(p["b"], 1, 0)}
    return lax.scan(block, x, turned)[0]


def counted(p: Any, x: jax.Array) -> jax.Array:
    return lax.fori_loop(0, 3, lambda i, x: block(x, jax.tree.map(lambda w: w[i], p))[0], x)


def backwards(p: Any, x: jax.Array) -> jax.Array:
    return lax.scan(block, x, p, reverse=True)[0]


def twice(p: Any, x: jax.Array) -> jax.Array:
    """The same blocks are gone through again."""
    return model(p, model(p, x))


def with_inputs(p: Any, x: jax.Array) -> jax.Array:
    """Each layer has an input of its own, too."""
    both = (p, jnp.stack([x, 2 * x, 3 * x]))
    return lax.scan(lambda x, part: block(x + part[1], part[0]), x, both)[0]


@pytest.mark.parametrize("function", [cast, counted, backwards, twice, with_inputs])
def test_loops_as_people_write_them(function: Callable[..., Any]) -> None:
    params, masks = dict(PARAMS), dict(MASKS)
    if function is cast:
        params["b"], masks["b"] = jnp.moveaxis(params["b"], 0, 1), np.moveaxis(masks["b"], 0, 1)
    held(function, params, X, shapes(alive(MASKS)), masks, unstack=True, fold=False)


def test_a_stack_that_is_used_outside_of_its_loop_keeps_what_that_needs() -> None:
    """The first two columns of every layer, whether the layer reads them or not."""

    def used(p: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return model(p, x), jnp.sum(p["a"][..., :2] ** 2)

    masks = MASKS | {"a": np.ones((3, 4, 6), bool)}
    counts = alive(masks)
    small = lap_jax.shrink(used, PARAMS, masks, X, unstack=True)
    assert small.variables["a"]["0"].shape == (4, 2)  # one of these lives
    assert [small.variables["b"][str(i)].shape[0] for i in range(3)] == counts
    found = small.apply(small.variables, X)
    masked = lap_jax.apply_masks(PARAMS, masks)
    chex.assert_trees_all_close(found, used(masked, X), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_of_loops_in_loops_layers_are_dictionaries_of_layers() -> None:
    pairs = {name: jnp.stack([leaf, leaf[::-1]]) for name, leaf in PARAMS.items()}
    masks = {name: np.stack([leaf, leaf[::-1]]) for name, leaf in MASKS.items()}

    def outer(p: Any, x: jax.Array) -> jax.Array:
        return lax.scan(lambda x, w: (model(w, x), None), x, p)[0]

    n = alive(MASKS)
    expected: dict[str, tuple[int, ...]] = {}
    for j, counts in enumerate((n, n[::-1])):
        expected |= {f"a/{j}/{i}": (4, counts[i]) for i in range(3)}
        expected |= {f"b/{j}/{i}": (counts[i], 4) for i in range(3)}
    small = held(outer, pairs, X, expected, masks, unstack=True)
    state = optax.adam(1e-3).init(pairs)
    chex.assert_trees_all_equal_shapes(small.slice(state), optax.adam(1e-3).init(small.variables))
    grown = small.grow(small.variables)
    np.testing.assert_allclose(outer(grown, X), small.apply(small.variables, X), rtol=1e-5)


def test_a_loop_over_time_stays_and_is_listed() -> None:
    def recurrent(p: Any, x: jax.Array) -> jax.Array:
        def step(h: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            return jnp.tanh(h @ p["w"] + part[0]), None

        h = lax.scan(step, x[:, 0], (x.swapaxes(0, 1), jnp.arange(3.0)))[0]
        return model({"a": p["a"], "b": p["b"]}, h)

    params = PARAMS | {"w": normal(4, 4)}
    wide = normal(2, 3, 4)
    expected = shapes(alive(MASKS)) | {"w": (4, 4)}
    small = held(recurrent, params, wide, expected, MASKS, full=1, unstack=True)
    assert "at full size: scan at" in str(small)

    def positions(p: Any, x: jax.Array) -> jax.Array:  # a part a step, of time
        return lax.scan(lambda h, part: (h + part[0] * part[1], None), x[0], (x, p["e"]))[0]

    other = lap_jax.shrink(positions, {"e": normal(3, 4)}, None, normal(3, 4), unstack=True)
    assert other.variables["e"].shape == (3, 4)


LLAMA: dict[str, Any] = dict(layers=2, width=16, heads=4, kv_heads=2, hidden=12, vocabulary=11)
TOKENS = jnp.array([[1, 4, 2, 0, 7]])


def llama_masks(params: Any) -> Any:
    """Of the first layer five neurons stay and both groups, of the second eleven and one."""
    masks = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params)
    layers = masks["layers"]
    for layer, neurons in enumerate((5, 11)):
        for name in ("gate", "up"):
            layers[name]["kernel"][layer, :, neurons:] = False
        layers["down"]["kernel"][layer, neurons:] = False
    layers["q"]["kernel"][1, :, 8:] = False
    for name in ("k", "v"):
        layers[name]["kernel"][1, :, 4:] = False
    layers["o"]["kernel"][1, 8:] = False
    return masks


@pytest.mark.slow
def test_a_scanned_decoder_loses_neurons_and_heads_layer_by_layer() -> None:
    llama = zoo.Llama(**LLAMA, scan=True)
    variables = jax.tree.map(
        lambda leaf: normal(*leaf.shape), jax.eval_shape(llama.init, jax.random.key(0), TOKENS)
    )
    masks = {"params": llama_masks(variables["params"])}
    small = lap_jax.shrink(llama, variables, masks, TOKENS, unstack=True)
    layers = small.variables["params"]["layers"]
    found = {name: [layers[name]["kernel"][str(i)].shape for i in (0, 1)] for name in "qkvo"}
    assert found == {
        "q": [(16, 16), (16, 8)], "k": [(16, 8), (16, 4)], "v": [(16, 8), (16, 4)],
        "o": [(16, 16), (8, 16)],
    }  # fmt: skip
    assert [layers["gate"]["kernel"][str(i)].shape for i in (0, 1)] == [(16, 5), (16, 11)]
    assert [layers["before_mlp"]["scale"][str(i)].shape for i in (0, 1)] == [(16,), (16,)]
    masked, more = lap_jax.apply_masks(variables, masks), jnp.arange(21).reshape(3, 7) % 11
    expected = jax.jit(llama.apply)(masked, more)
    found = jax.jit(small.apply)(small.variables, more)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert small.difference < 1e-5


class Block(nn.Module):
    """Dense layers with a batch norm and dropout between, beside what is carried."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, None]:
        y = nn.BatchNorm(use_running_average=not train)(nn.Dense(12, use_bias=False)(x))
        y = nn.Dropout(0.2, deterministic=not train)(nn.relu(y))
        return x + nn.Dense(6, use_bias=False)(y), None


class Net(nn.Module):
    """Two blocks by `nn.scan`."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        stacked = nn.scan(
            Block, variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True}, in_axes=nn.broadcast, length=2,
        )  # fmt: skip
        x, _ = stacked(name="layers")(nn.Dense(6)(x), train)
        return nn.Dense(3)(x)


@pytest.mark.slow
def test_taken_apart_a_network_trains_as_the_masked_one() -> None:
    """A hundred steps of adam, batch statistics and dropout: equal to 1e-5."""
    net, x, labels = Net(), normal(16, 5), jnp.arange(16) % 3
    variables = net.init(jax.random.key(0), x)
    masks = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), variables["params"])
    read = masks["layers"]["Dense_1"]["kernel"]
    read[...] = np.random.default_rng(0).random(read.shape) < 0.5
    read[0, 3:], read[1, 7:] = False, False
    masks = {"params": masks}
    variables = lap_jax.apply_masks(variables, masks)
    small = lap_jax.shrink(net, variables, masks, x, fold=False, unstack=True)
    alive = read.any(-1).sum(1).tolist()
    for name in ("scale", "bias"):
        layers = small.variables["params"]["layers"]["BatchNorm_0"][name]
        assert [layers[str(i)].size for i in (0, 1)] == alive
    means = small.variables["batch_stats"]["layers"]["BatchNorm_0"]["mean"]
    assert [means[str(i)].size for i in (0, 1)] == alive

    trains_alike(net, small, variables, masks, x, labels)


class Residual(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.a = nnx.Linear(4, 6, use_bias=False, rngs=rngs)
        self.b = nnx.Linear(6, 4, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.b(jnp.tanh(self.a(x)))


class Repeated(nnx.Module):
    """Blocks by `nnx.vmap` and `nnx.scan`."""

    def __init__(self) -> None:
        make = nnx.vmap(lambda key: Residual(nnx.Rngs(key)))
        self.layers = make(jax.random.split(jax.random.key(0), 3))

    def __call__(self, x: jax.Array) -> jax.Array:
        turn = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        found: jax.Array = turn(x, self.layers)
        return found


@pytest.mark.slow
def test_an_nnx_module_and_its_masks() -> None:
    module = Repeated()
    masks = {"layers": {name: {"kernel": MASKS[name]} for name in "ab"}}
    small = lap_jax.shrink(module, masks, X, unstack=True, fold=False)
    kernels = {name: small.variables["layers"][name]["kernel"].get_value() for name in "ab"}
    counts = alive(MASKS)
    assert [kernels["a"][str(i)].shape for i in range(3)] == [(4, n) for n in counts]
    assert list(small.kept)[:2] == ["layers/a/kernel/0", "layers/a/kernel/1"]
    optimizer = lap_jax.keep_pruned(optax.adam(1e-2), small.slice(masks))
    state = optimizer.init(small.variables)
    assert state.masks["layers/b/kernel/1"].shape == (counts[1], 4)
    gradient = jax.grad(lambda v: small.apply(v, X).sum())(small.variables)
    updates, _ = jax.jit(optimizer.update)(gradient, state, small.variables)
    stepped = optax.apply_updates(small.variables, updates)
    expected = nnx.merge(nnx.graphdef(module), small.grow(stepped))(X)
    np.testing.assert_allclose(small.apply(stepped, X), expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- states


def small_of(**options: Any) -> lap_jax.Small:
    return lap_jax.shrink(model, PARAMS, MASKS, X, unstack=True, fold=False, **options)


MASKED = lap_jax.apply_masks(PARAMS, MASKS)


@pytest.mark.parametrize("pack", [False, True])
def test_states_are_those_of_the_small_network(pack: bool) -> None:
    """By path, too, where masks are by path; a flat tree of parameters is told from these."""
    small = small_of()

    def optimizer(masks: Any) -> Any:
        inner = optax.chain(optax.clip(1.0), optax.lion(1e-3), optax.scale_by_adam())
        return lap_jax.keep_pruned(inner, masks, pack=pack)

    chex.assert_trees_all_equal(
        small.slice(optimizer(MASKS).init(MASKED)),
        optimizer(small.slice(MASKS)).init(small.variables),
    )
    assert set(small.slice(MASKS)["a"]) == {"0", "1", "2"}


def test_a_state_of_pruning_in_training() -> None:
    params = {"dense": {"kernel": normal(4, 3)}, "out": {"kernel": normal(3, 2)}, **PARAMS}
    chain = lap_jax.chain(params, ["dense", "out"])
    optimizer = lap_jax.prune_in_training(optax.sgd(0.1, momentum=0.9), chain, [(1, 0.5)])
    state = optimizer.init(params)
    taken = Stacks.of({"a": 0}, params).unstack(state)
    moments = taken.inner_state[0].trace["a"]
    assert {name: leaf.shape for name, leaf in moments.items()} == dict.fromkeys("012", (4, 6))
    assert {path for path in taken.masks if path.startswith("a")} == {"a/0", "a/1", "a/2"}
    assert {"dense/kernel", "out/kernel", "b"} <= set(taken.masks)


@pytest.mark.slow
def test_factored_moments_are_taken_apart_or_refused() -> None:
    """Means over rows and columns of a layer are a layer's part of those of the stack."""
    optimizer = optax.scale_by_factored_rms(min_dim_size_to_factor=4)
    params = {"w": normal(2, 6, 5), "b": normal(2, 5)}
    gradient = jax.tree.map(lambda leaf: leaf + 1, params)
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    stacks = Stacks.of({"w": 0, "b": 0}, params)
    apart = stacks.unstack(params)
    _, expected = optimizer.update(stacks.unstack(gradient), optimizer.init(apart), apart)
    chex.assert_trees_all_close(stacks.unstack(state), expected, rtol=1e-5)
    many = {"w": normal(7, 6, 3)}
    with pytest.raises(lap_jax.PruningError, match=r"'w' has shape \(7, 6, 3\), .* its layers"):
        Stacks.of({"w": 0}, many).unstack(optimizer.init(many))


def test_layers_lie_as_the_stack_and_the_stack_again() -> None:
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec(None, None, "x"))
    params = {"a": jax.device_put(PARAMS["a"], sharding), "b": PARAMS["b"]}
    small = lap_jax.shrink(model, params, None, X, unstack=True)
    layer = small.variables["a"]["1"]
    assert layer.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(None, "x")), 2)
    assert small.grow(small.variables)["a"].sharding.is_equivalent_to(sharding, 3)
    over = NamedSharding(mesh, PartitionSpec(None, "x"))
    pairs = Stacks.of({"a": 1}, {"a": jax.device_put(normal(3, 2, 5), over)})
    assert pairs.unstack(pairs.large)["a"]["1"].sharding.is_fully_replicated
    chex.assert_trees_all_equal(pairs.restack(pairs.unstack(pairs.large)), pairs.large)


# ---------------------------------------------------------------- onward


@pytest.mark.slow
def test_on_disk_exported_and_in_half_precision(tmp_path: Path) -> None:
    small = small_of()
    masks = small.slice(MASKS)
    abstract = jax.eval_shape(lambda: small.variables)
    lap_jax.save_pruned(tmp_path / "small.safetensors", small.variables, masks)
    loaded, stay = lap_jax.load_pruned(tmp_path / "small.safetensors", abstract)
    chex.assert_trees_all_equal((loaded, stay), (small.variables, masks))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "orbax", small.variables)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "orbax", abstract)
        as_it_is = checkpointer.restore(tmp_path / "orbax")
    chex.assert_trees_all_equal(restored, small.variables)
    chex.assert_trees_all_equal(as_it_is, small.variables)
    expected = small.apply(small.variables, X)
    written = export.export(jax.jit(small.apply))(abstract, X).serialize()
    found = export.deserialize(bytearray(written)).call(small.variables, X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    rounded = lap_jax.shrink(model, half, MASKS, X.astype(jnp.bfloat16), unstack=True)
    assert rounded.variables["a"]["1"].dtype == jnp.bfloat16
    assert rounded.difference < 1e-5


def test_errors_are_for_people() -> None:
    small = small_of()
    with pytest.raises(lap_jax.PruningError, match="has 6 leaves, and was given 2"):
        small.apply(MASKED, X)
    with pytest.raises(lap_jax.PruningError, match=r"shape \(5,\) stands for 'a', a stack"):
        small.slice({"a": jnp.ones(5)})
    scalars = small.slice({"a": jnp.float32(0), "b": True})
    assert scalars["b"] == {"0": True, "1": True, "2": True}


def test_next_values_of_a_stack_need_it_taken_apart() -> None:
    """Batch statistics of layers that keep neurons of their own, by one array."""

    def net(v: Any, x: jax.Array, mutable: Any = ()) -> Any:
        def layer(x: jax.Array, own: Any) -> tuple[jax.Array, jax.Array]:
            w, mean = own
            y = jnp.tanh(x @ w["a"]) + mean
            return x + y @ w["b"], 0.9 * mean + 0.1 * y.mean(0)

        x, means = lax.scan(layer, x, (v["params"], v["stats"]["mean"]))
        return (x, {"stats": {"mean": means}}) if mutable else x

    variables = {"params": PARAMS, "stats": {"mean": normal(3, 6)}}
    masks = {"params": MASKS}
    equal = lap_jax.shrink(net, variables, masks, X, fold=False)
    with pytest.raises(lap_jax.PruningError, match=r"values of 'mean', a stack .*unstack=True"):
        equal.apply(equal.variables, X, mutable=("stats",))
    small = lap_jax.shrink(net, variables, masks, X, fold=False, unstack=True)
    found, changed = small.apply(small.variables, X, mutable=("stats",))
    expected, large = net(lap_jax.apply_masks(variables, masks), X, mutable=("stats",))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(changed["stats"], small.slice(large)["stats"], rtol=1e-5)
