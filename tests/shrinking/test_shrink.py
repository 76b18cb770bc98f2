"""Shrinking models as people write them: right, smaller, and trained on as the large one."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lap_jax
from lap_jax.shrinking import program
from tests import zoo
from tests.shrinking.held import ALL, held, normal, trains_alike

IMAGES, TOKENS = normal(2, 16, 16, 3), jnp.array([[1, 4, 2, 0, 7]])
DECODER: dict[str, Any] = dict(layers=2, width=16, heads=4, kv_heads=2, hidden=12, vocabulary=11)
MODELS: dict[str, tuple[nn.Module, Any]] = {
    "resnet": (zoo.ResNet((2,), 4, 5), IMAGES),
    "mobilenet": (zoo.MobileNetV2(((1, 4, 1, 1), (2, 6, 1, 2)), 4, 10, 5), IMAGES),
    "vit": (zoo.ViT(layers=1, width=8, heads=2, hidden=12, patch=8, classes=5), IMAGES),
    "llama, scan": (zoo.Llama(**DECODER, scan=True, remat=True), TOKENS),
}


OTHERS: dict[str, tuple[nn.Module, Any]] = {
    "densenet": (zoo.DenseNet((2,), 2, 5), IMAGES),
    "wide resnet": (zoo.WideResNet(2, (4, 6, 8), 5), IMAGES),
    "unet": (zoo.UNet((4, 6)), IMAGES),
    "gpt2": (zoo.GPT2(2, 8, 2, 11, 7), TOKENS),
    "llama": (zoo.Llama(**DECODER, repeat=False), TOKENS),
    "lstm": (zoo.LSTM(11, 6, 8, 3, nn.LSTMCell), TOKENS),
}


@pytest.mark.parametrize(
    "name", [*MODELS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_models_give_the_same_and_become_smaller(name: str) -> None:
    """`shrink` compares outputs itself, to 1e-5 of the largest: here that it did, and shrinks."""
    model, x = (MODELS | OTHERS)[name]
    variables = jax.jit(model.init)(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: leaf + 0.1 * normal(*leaf.shape), variables)
    graph = lap_jax.trace(model, variables, x)
    masks = lap_jax.lookahead_masks(variables, graph, 0.9, method="LAP-backward-seq")
    small = lap_jax.shrink(model, variables, masks, x)
    before, after = small.parameters
    assert after < 0.85 * before
    assert small.difference < 1e-5
    assert all(name == "scan" for name, _ in small.at_full_size)  # over time, of the LSTM


class WithDropout(nnx.Module):
    """A module whose state holds a random key and a counter beside its parameters."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(6, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.dropout(nnx.relu(self.first(x))))


def test_random_keys_among_the_variables_are_nobodys_constants() -> None:
    model, x = WithDropout(nnx.Rngs(0)), normal(2, 6)
    model.eval()
    graph = lap_jax.trace(model, x)
    masks = lap_jax.lookahead_masks(
        nnx.state(model), graph, 0.5, scope=lap_jax.Scope(unit="neuron")
    )
    small = lap_jax.shrink(model, masks, x)
    assert small.variables["first"]["kernel"].shape == (6, 2)
    grown = nnx.merge(nnx.graphdef(model), small.grow(small.variables))(x)
    np.testing.assert_allclose(small.apply(small.variables, x), grown, rtol=1e-5, atol=1e-6)


def test_nnx_modules_hold_their_variables() -> None:
    model = zoo.NnxMLP((12, 8, 4), rngs=nnx.Rngs(0))
    x = normal(2, 12)
    masks = nnx.state(model, nnx.Param)
    masks = jax.tree.map(lambda leaf: jnp.abs(leaf) > 0.3 * jnp.abs(leaf).max(), masks)
    masks["layers"][0]["kernel"] = masks["layers"][0]["kernel"].at[:, :4].set(False)
    small = lap_jax.shrink(model, masks, x)
    assert small.variables["layers"][0]["kernel"].shape == (12, 4)
    other = lap_jax.shrink(model, nnx.state(model), masks, x)
    chex.assert_trees_all_equal(small.variables, other.variables)
    masked = lap_jax.apply_masks(nnx.state(model), masks)
    expected = nnx.merge(nnx.graphdef(model), masked)(x)
    np.testing.assert_allclose(small.apply(small.variables, x), expected, rtol=1e-5, atol=1e-6)


class Net(nn.Module):
    """A convolution with a batch norm, and two dense layers with dropout between."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(8, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x)).mean((1, 2))
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(nn.Dense(16)(x)))
        return nn.Dense(3)(x)


def test_a_small_network_trains_as_the_masked_one() -> None:
    """A hundred steps of adam, batch statistics and dropout: equal to 1e-5."""
    net, x, labels = Net(), normal(16, 8, 8, 3), jnp.arange(16) % 3
    variables = net.init(jax.random.key(0), x)
    graph = lap_jax.trace(net, variables, x)
    masks = lap_jax.lookahead_masks(variables, graph, 0.85, method="LAP-forward")
    variables = lap_jax.apply_masks(variables, masks)
    small = lap_jax.shrink(net, variables, masks, x, fold=False)
    assert small.parameters[1] < 0.6 * small.parameters[0]

    trains_alike(net, small, variables, masks, x, labels)


def test_on_a_mesh_a_small_network_lies_as_the_large_one() -> None:
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
    params = {"a": jax.device_put(normal(4, 6, zero=((ALL, [0, 3]),)), sharding), "b": normal(6, 2)}
    small = lap_jax.shrink(lambda p, x: jnp.sin(x @ p["a"]) @ p["b"], params, None, normal(3, 4))
    assert small.variables["a"].shape == (4, 4)
    assert small.variables["a"].sharding.is_equivalent_to(sharding, 2)


def model(p: Any, x: jax.Array) -> jax.Array:
    return x @ p["a"]


PARAMS = {"a": normal(4, 3)}


def test_errors_are_for_people() -> None:
    x = normal(2, 4)
    with pytest.raises(lap_jax.PruningError, match=r"fold=False .* pass masks"):
        lap_jax.shrink(model, PARAMS, None, x, fold=False)
    shapes = jax.eval_shape(lambda: PARAMS)
    with pytest.raises(lap_jax.PruningError, match="'a' is ShapeDtypeStruct, which has no values"):
        lap_jax.shrink(model, shapes, None, x)
    with pytest.raises(lap_jax.PruningError, match="mask 'b' has no parameter"):
        lap_jax.shrink(model, PARAMS, {"b": jnp.ones((4, 3), bool)}, x)
    small = lap_jax.shrink(model, PARAMS, None, jax.ShapeDtypeStruct((2, 4), jnp.float32))
    with pytest.raises(lap_jax.PruningError, match=r"'a' has shape \(4, 2\), .* expects \(4, 3\)"):
        small.apply({"a": jnp.ones((4, 2))}, x)
    with pytest.raises(lap_jax.PruningError, match="has 1 leaves, and was given 2"):
        small.apply({**PARAMS, "b": 1}, x)
    net = Net()
    images = normal(2, 8, 8, 3)
    variables = net.init(jax.random.key(0), images)
    with pytest.raises(
        lap_jax.PruningError, match=r"next values .*'1/batch_stats/BatchNorm_0/mean'"
    ):
        lap_jax.shrink(net, variables, None, images, train=True, mutable=["batch_stats"],
                       rngs={"dropout": jax.random.key(0)})  # fmt: skip


def test_a_wrong_small_network_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = program.brought
    monkeypatch.setattr(program, "brought", lambda *a: right(*a) * 1.001)
    with pytest.raises(lap_jax.PruningError, match=r"output at \(0, 0\) is .* differ by more than"):
        lap_jax.shrink(model, PARAMS, None, normal(2, 4))


def test_a_bias_spread_over_a_window_by_hand_is_trained_on() -> None:
    """As Equinox adds it: of shape [channels, 1, 1], to one example at a time."""
    window: dict[str, Any] = {"padding": "VALID", "dimension_numbers": ("NCHW", "OIHW", "NCHW")}

    def one(p: Any, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(x[None], p["a"], (1, 1), **window)[0]
        y = jax.nn.relu(y + jnp.broadcast_to(p["b"], y.shape))
        return y.ravel() @ p["c"]

    params = {"a": normal(4, 2, 3, 3), "b": normal(4, 1, 1), "c": normal(16, 3)}
    read = jnp.ones((16, 3), bool).at[:8].set(False)  # nobody reads the first two channels
    masks = {"a": jnp.ones((4, 2, 3, 3), bool), "b": None, "c": read}
    small = held(
        jax.vmap(one, (None, 0)),
        params,
        normal(2, 2, 4, 4),
        masks=masks,
        fold=False,
        shapes={"a": (2, 2, 3, 3), "b": (2, 1, 1), "c": (8, 3)},
    )
    assert small.difference < 1e-6


def test_channels_that_are_all_constant_are_so_along_their_own_axis() -> None:
    """As in MLP-Mixer, which mixes positions: the axis of the channels is not the last one."""

    def mixer(p: Any, x: jax.Array) -> jax.Array:
        h = jnp.swapaxes(x @ p["a"] + p["b"], 1, 2)  # each channel is its bias
        return jnp.swapaxes(h @ p["c"], 1, 2)

    params = {"a": jnp.zeros((3, 4)), "b": normal(4), "c": normal(5, 6)}
    held(mixer, params, normal(2, 5, 3))
