"""Where small networks go: a smaller configuration of their class, `jax.export`, ONNX, files."""

from pathlib import Path
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax import export

import lap_jax
from tests import zoo
from tests.shrinking.held import normal

LARGE: dict[str, Any] = dict(layers=2, width=24, heads=6, kv_heads=3, hidden=12, vocabulary=11)
SMALLER: dict[str, Any] = LARGE | dict(heads=4, kv_heads=2, hidden=7, head_size=4)
TOKENS = jnp.array([[1, 4, 2, 0, 7]])


def largest(weights: np.ndarray, count: int) -> np.ndarray:
    """Which parts of weights ``[layers, in, parts, ...]`` are the largest, ``[layers, parts]``."""
    norms = (weights**2).sum(tuple(axis for axis in range(weights.ndim) if axis not in (0, 2)))
    return norms.argsort(1).argsort(1) >= norms.shape[1] - count


def by_hand(params: Any) -> Any:
    """Masks of a stack of blocks: seven neurons stay in each, and two groups with their queries."""
    kernels = {
        name: np.asarray(part["kernel"]) for name, part in params.items() if "kernel" in part
    }
    neurons = largest(kernels["gate"] * kernels["up"], 7)
    groups = largest(kernels["k"].reshape(*kernels["k"].shape[:2], 3, -1), 2)
    outputs = {
        "gate": neurons, "up": neurons, "q": groups.repeat(8, 1), "k": groups.repeat(4, 1),
        "v": groups.repeat(4, 1),
    }  # fmt: skip
    masks = {name: own[:, None] for name, own in outputs.items()}
    masks |= {"down": neurons[..., None], "o": groups.repeat(8, 1)[..., None]}
    return {
        name: {"kernel": np.broadcast_to(mask, kernels[name].shape)} for name, mask in masks.items()
    }


@pytest.mark.parametrize("scan", [False, True], ids=["loop", "scan"])
def test_the_same_class_with_a_smaller_configuration_loads_a_small_decoder(scan: bool) -> None:
    large = zoo.Llama(**LARGE, scan=scan)
    shapes = jax.eval_shape(large.init, jax.random.key(0), TOKENS)
    variables = jax.tree.map(lambda leaf: normal(*leaf.shape), shapes)
    params = variables["params"]
    blocks = ["layers_0", "layers_1"]
    if scan:
        masks = {"layers": by_hand(params["layers"])}
    else:
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(params[b] for b in blocks))
        found = by_hand(stacked)
        masks = {b: jax.tree.map(lambda leaf, i=i: leaf[i], found) for i, b in enumerate(blocks)}
    small = lap_jax.shrink(large, variables, {"params": masks}, TOKENS)
    smaller = zoo.Llama(**SMALLER, scan=scan)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        small.variables, jax.eval_shape(smaller.init, jax.random.key(0), TOKENS)
    )
    more = jnp.arange(21).reshape(3, 7) % 11
    masked = jax.jit(large.apply)(lap_jax.apply_masks(variables, {"params": masks}), more)
    found = jax.jit(smaller.apply)(small.variables, more)
    np.testing.assert_allclose(found, masked, rtol=1e-4, atol=1e-5)


def test_an_nnx_module_of_the_smaller_widths_takes_small_variables() -> None:
    """Biases of neurons that go are masked, too: what is left of them would be a constant."""
    large, x = zoo.NnxMLP((12, 8, 4), rngs=nnx.Rngs(0)), normal(2, 12)
    bias = large.layers[0].bias
    assert bias is not None
    bias[...] = jnp.ones(8)
    stay = jnp.arange(8) < 5
    first = {"kernel": jnp.broadcast_to(stay, (12, 8)), "bias": stay}
    masks = {"layers": {0: first, 1: {"kernel": jnp.broadcast_to(stay[:, None], (8, 4))}}}
    small = lap_jax.shrink(large, masks, x)
    smaller = zoo.NnxMLP((12, 5, 4), rngs=nnx.Rngs(1))
    nnx.update(smaller, small.variables)
    np.testing.assert_allclose(smaller(x), small.apply(small.variables, x), rtol=1e-5, atol=1e-6)


def test_exported_programs_and_files(tmp_path: Path) -> None:
    """A convolutional network: with a batch as it is, with one of any size, and as a tree."""
    net, x = zoo.ConvNet((6,), 8, 3), normal(4, 8, 8, 3)
    variables = net.init(jax.random.key(0), x)
    kernel = variables["params"]["Conv_0"]["kernel"]
    masks = {
        "params": {"Conv_0": {"kernel": jnp.ones(kernel.shape, bool).at[..., [1, 4]].set(False)}}
    }
    small = lap_jax.shrink(net, variables, masks, x)
    params = small.variables["params"]
    assert params["Conv_0"]["kernel"].shape == (3, 3, 3, 4)

    def called(function: Any, shape: Any, x: jax.Array) -> jax.Array:
        given = small.variables, jax.ShapeDtypeStruct(shape, x.dtype)
        written = bytes(export.export(jax.jit(function))(*given).serialize())
        found: jax.Array = export.deserialize(bytearray(written)).call(small.variables, x)
        return found

    expected = small.apply(small.variables, x)
    np.testing.assert_allclose(called(small.apply, x.shape, x), expected, rtol=1e-5, atol=1e-6)
    (batch,) = export.symbolic_shape("batch")
    any_batch = jax.vmap(lambda v, x: small.apply(v, x[None])[0], (None, 0))
    found = called(any_batch, (batch, *x.shape[1:]), x[:3])
    np.testing.assert_allclose(found, expected[:3], rtol=1e-5, atol=1e-6)
    with pytest.raises(lap_jax.PruningError, match=r"shape \(batch, 8, 8, 3\).* jax.vmap"):
        called(small.apply, (batch, *x.shape[1:]), x)

    abstract = jax.eval_shape(lambda: small.variables)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "orbax", small.variables)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "orbax", abstract)
    chex.assert_trees_all_equal(restored, small.variables)
    left = small.slice(masks)
    lap_jax.save_pruned(tmp_path / "small.safetensors", small.variables, left)
    loaded, stay = lap_jax.load_pruned(tmp_path / "small.safetensors", abstract)
    chex.assert_trees_all_equal(loaded, small.variables)
    np.testing.assert_array_equal(stay["params"]["Conv_0"]["kernel"], True)


class Convolutional(nn.Module):
    """A strided convolution and dense layers."""

    widths: tuple[int, ...] = (8, 16)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first, hidden = self.widths
        x = nn.relu(nn.Conv(first, (3, 3), (2, 2))(x)).mean((1, 2))
        x = nn.relu(nn.Dense(hidden)(x))
        return nn.Dense(3)(x)


def halved() -> tuple[Any, jax.Array, lap_jax.Small]:
    """Masked variables of `Convolutional`, inputs, and what is left of it."""
    model, x = Convolutional(), normal(4, 8, 8, 1)
    variables = jax.tree.map(
        lambda leaf: normal(*leaf.shape), jax.eval_shape(model.init, jax.random.key(0), x)
    )
    graph = lap_jax.trace(model, variables, x)
    scope = lap_jax.Scope(unit="neuron")
    masks = lap_jax.lookahead_masks(variables, graph, 0.5, scope=scope)
    masked = lap_jax.apply_masks(variables, masks)
    return masked, x, lap_jax.shrink(model, variables, masks, x, fold=False)


def test_a_small_network_goes_through_onnx() -> None:
    jax2onnx = pytest.importorskip("jax2onnx", reason="the extra 'deploy' is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'deploy' is not installed")
    masked, x, small = halved()
    model = jax2onnx.to_onnx(lambda x: small.apply(small.variables, x), [x.shape])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: np.asarray(x)})
    chex.assert_trees_all_close(found, Convolutional().apply(masked, x), rtol=1e-5, atol=1e-5)


def test_a_small_network_is_quantised_by_qwix() -> None:
    qwix = pytest.importorskip("qwix", reason="the extra 'deploy' is not installed")
    masked, x, small = halved()
    params = small.variables["params"]
    model = Convolutional((params["Conv_0"]["bias"].size, params["Dense_0"]["bias"].size))
    assert model.widths == (4, 8)
    rule = qwix.QuantizationRule(module_path="Dense.*", weight_qtype=jnp.int8)
    quantised = qwix.quantize_model(model, qwix.PtqProvider([rule]))
    shapes = jax.eval_shape(quantised.init, jax.random.key(0), x)
    narrow = qwix.quantize_params(params, shapes["params"])
    assert jax.tree.leaves(narrow["Dense_0"]["kernel"])[0].dtype == jnp.int8
    wanted = np.asarray(Convolutional().apply(masked, x))
    found = np.asarray(quantised.apply({"params": narrow}, x))
    assert 0 < abs(found - wanted).max() < 0.03 * abs(wanted).max()
