"""Outputs of layers brought back to the dense network's mean and spread, without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph.layers import Layer
from lap_jax.paths import leaves_by_path, map_by_path
from lap_jax.retraining import apply_masks
from lap_jax.scoring.kernels import in_leaf, layout_of
from lap_jax.scoring.scores import widen
from lap_jax.tracing import channels, views
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.interpreter import read
from lap_jax.tracing.model import as_masked_model
from lap_jax.tracing.pairs import Gives, Meets, Pair, by_channel, pair_interpreter
from lap_jax.tracing.trace import model_program
from lap_jax.tracing.values import FromParams, Traced, Value

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

# An output whose spread is less than these, of the dense one's and of its mean, does not vary.
_STANDS, _ROUNDING = 1e-3, 1e-5


class Moments(NamedTuple):
    """Of a layer's outputs over samples and positions, ``[out]`` each, float32."""

    mean: jax.Array
    spread: jax.Array


class Change(NamedTuple):
    """What a layer's outputs are multiplied by, and what is added then: ``[out]``, float32."""

    scale: jax.Array
    shift: jax.Array


class Offset(NamedTuple):
    """Where parameters are added to a layer's outputs, or taken from these: a bias, or a mean.

    Attributes:
      layer: its name.
      leaf: path of the parameters.
      sign: 1, or -1 where they are taken away.
      entries, channels: entries of the raveled leaf, and the output that each belongs to.
    """

    layer: str
    leaf: str
    sign: int
    entries: np.ndarray
    channels: np.ndarray


def repair(model: Any, variables: Any, masks: Any, *inputs: Any, **static: Any) -> Any:
    """Give each channel of a masked network the mean and the spread of the dense one's.

    Pruning shrinks what layers give, more from layer to layer. For each output k of each layer

        z'[k] = a[k] z[k] + b[k],   a = std(dense z) / std(z),   b = mean(dense z) - a mean(z)

    over samples and positions, z before bias and norm, layer by layer, on what the repaired layers
    before give. The scale goes into the kernel, so that zeros stay zeros; the shift into what is
    added next: the bias, or the running mean of a batch norm. A layer with neither has its scale
    alone, an output that does not vary any more the shift alone, and `recalibrate` has nothing left
    to mend. (Rescaling of channels after merging: Jordan et al., REPAIR, ICLR 2023.)

    What is not repaired: weights that are read in several ways, or that the model scales by more
    than parameters, get no scale; layers that share a contraction, or lie inside of a branch or of
    a loop over time, stay as they are. One that is read several times is matched where it is read
    first.

    Args:
      model, variables: as in `shrink`: variables of the dense network. NNX and Equinox modules hold
        their own: ``repair(model, masks, *inputs)``.
      masks: a tree over parameters, as `apply_masks` takes it.
      *inputs: arrays, a hundred samples or more; what the layers give on all of them is held at
        once.
      **static: as in `trace`, such as ``train=False``: the network is seen as it is used.

    Returns:
      Masked variables, repaired: a tree of the same structure and dtypes, of a module that holds
      its variables its state, or the module.

    Raises:
      PruningError: as `trace` and `apply_masks`, or if what a layer gives is NaN or infinite.

    Example:
      >>> params = {"a": {"kernel": jnp.array([[1.0], [1.0]]), "bias": jnp.zeros(1)}}
      >>> masks = {"a": {"kernel": jnp.array([[True], [False]])}}
      >>> dense = lambda p, x: x @ p["a"]["kernel"] + p["a"]["bias"]
      >>> x = jnp.array([[1.0, 1.0], [3.0, 3.0]])
      >>> repaired = repair(dense, params, masks, x)
      >>> repaired["a"]["kernel"].tolist(), dense(repaired, x).tolist()
      ([[2.0], [0.0]], [[2.0], [6.0]])
    """
    own, masks = as_masked_model(model, variables, masks, inputs)
    masked = apply_masks(own.variables, masks)
    stays = {path: mask for path, mask in leaves_by_path(masks).items() if mask is not None}

    @jax.jit
    def run(
        dense: Any, masked: Any, stays: dict[str, jax.Array], inputs: Any
    ) -> tuple[dict[str, jax.Array], dict[str, Moments]]:  # fmt: skip
        program, empty, values = model_program(own.function, dense, inputs, static)

        def follow(variables: Any, gives: Gives, meets: Meets | None = None) -> GraphBuilder:
            builder = GraphBuilder(empty.shapes, empty.kernels)
            arrays = jax.tree.leaves((variables, inputs))
            pairs = [Pair(*pair) for pair in zip(values, arrays, strict=True)]
            read(pair_interpreter(builder, lambda *_: None, gives, meets), program, pairs)
            return builder

        moments, changes = dict[str, Moments](), dict[str, Change]()
        sizes, offsets = dict[str, int](), dict[str, list[Offset]]()

        def noted(name: str, ids: np.ndarray, array: jax.Array) -> jax.Array:
            if name not in moments:
                moments[name], sizes[name] = _moments(array, ids), array.size
            return array

        def met(eqn: JaxprEqn, operands: Sequence[Value]) -> None:
            offset = _offset(eqn, operands, sizes)
            if offset is not None:
                offsets.setdefault(offset.layer, []).append(offset)

        layers = follow(dense, noted, met)
        first = _own(offsets)
        fixed = _read_in_several_ways(layers) | set(layers.scaled_by_more)

        def mended(name: str, ids: np.ndarray, array: jax.Array) -> jax.Array:
            if name not in changes:
                now, offset = _moments(array, ids), first.get(name)
                may_shift = _may_shift(offset, stays, empty.shapes, moments[name].mean)
                changes[name] = _change(moments[name], now, name not in fixed, may_shift)
            scale, shift = (each[channels.small(ids)] for each in changes[name])
            return (widen(array) * scale + shift).astype(array.dtype)

        follow(masked, mended)
        leaves = leaves_by_path(masked)
        touched = set()
        for name, change in changes.items():
            layer = layers.layers[name]
            if name not in fixed:
                leaves[layer.path] = _scaled(leaves[layer.path], layer, change.scale)
                touched.add(layer.path)
            if name in first:
                path = first[name].leaf
                leaves[path] = _shifted(leaves[path], first[name], change.shift)
                touched.add(path)
        return {path: leaves[path] for path in touched}, moments

    repaired, moments = run(own.variables, masked, stays, own.inputs)
    _check_finite(moments)
    whole = model if isinstance(own.variables, type(model)) else own.variables  # Equinox
    leaves = leaves_by_path(masked) | repaired
    found = map_by_path(lambda path, leaf: leaves.get(path, leaf), whole)
    # A Linen module's parameters alone were put into a collection, which nobody asked for.
    alone = isinstance(own.variables, dict) and own.variables.get("params") is variables
    return found["params"] if alone else found


def _moments(array: jax.Array, ids: np.ndarray) -> Moments:
    size = int(channels.small(ids).max()) + 1
    count, wide = array.size // size, widen(array)
    mean = by_channel(wide, ids, size) / count
    off = wide - mean[channels.small(ids)]
    return Moments(mean, jnp.sqrt(by_channel(off**2, ids, size) / count))


def _may_shift(
    offset: Offset | None, stays: Mapping[str, jax.Array], shapes: Mapping[str, tuple[int, ...]],
    like: jax.Array,
) -> jax.Array:  # fmt: skip
    """Return whether something that is not pruned can take each output's shift, ``[out]``."""
    if offset is None:
        return jnp.zeros(like.shape, bool)
    mask = stays.get(offset.leaf, True)
    own = jnp.broadcast_to(mask, shapes[offset.leaf]).reshape(-1)[offset.entries] != 0
    return jnp.ones(like.shape, bool).at[offset.channels].min(own)


def _change(dense: Moments, now: Moments, scales: bool, may_shift: jax.Array) -> Change:
    """Return what gives outputs the mean and the spread that they had, as far as that may be."""
    varies = now.spread > jnp.maximum(_STANDS * dense.spread, _ROUNDING * abs(now.mean))
    # What did not vary in the dense network had better stay alive than be multiplied by zero.
    varies &= dense.spread > _ROUNDING * abs(dense.mean)
    scale = jnp.where(varies & scales, dense.spread / jnp.where(varies, now.spread, 1), 1.0)
    return Change(scale, jnp.where(may_shift, dense.mean - scale * now.mean, 0.0))


def _offset(
    eqn: JaxprEqn, operands: Sequence[Value], sizes: Mapping[str, int]
) -> Offset | None:  # fmt: skip
    """Return what an equation adds to the plain outputs of a layer, if it is such an equation.

    Args:
      eqn, operands: the equation, and what is known of its operands.
      sizes: of the outputs that have been met, by layer.
    """
    if eqn.primitive.name not in ("add", "sub", "add_any") or len(operands) != 2:
        return None
    order = operands if isinstance(operands[0], Traced) else operands[::-1]
    x, leaf = order
    if not isinstance(x, Traced) or not isinstance(leaf, FromParams) or leaf.kernel is None:
        return None
    if leaf.scale != 1 or len(leaf.shape) != len(x.shape) or x.unit or len(x.sources) != 1:
        return None
    (source,) = x.sources
    plain = source.linear and source.scale == source.pool == 1
    if not plain or sizes.get(source.node) != int(np.prod(x.shape)):
        return None
    if eqn.primitive.name == "sub" and order is not operands:
        return None  # taken from the parameters
    view = leaf.kernel
    own = views.entries(view, [axis for axis, by in enumerate(view.strides) if by])
    _, pairs = channels.distinct([source.ids, np.broadcast_to(own, x.shape).astype(np.int32)], 1)
    if len(np.unique(pairs[:, 1])) < len(pairs) or (pairs[:, 0] < 0).any():
        return None  # an entry that several outputs share
    sign = -1 if eqn.primitive.name == "sub" else 1
    return Offset(source.node, view.leaf, sign, pairs[:, 1], pairs[:, 0])


def _own(offsets: Mapping[str, Sequence[Offset]]) -> dict[str, Offset]:
    """Return of each layer what is added to it first, where that is added nowhere else."""
    times: Counter[tuple[str, int]] = Counter()
    for found in offsets.values():
        for offset in found:
            times.update((offset.leaf, int(entry)) for entry in offset.entries)
    own: dict[str, Offset] = {}
    for name, (first, *_) in offsets.items():
        if all(times[first.leaf, int(entry)] == 1 for entry in first.entries):
            own[name] = first
    return own


def _read_in_several_ways(builder: GraphBuilder) -> set[str]:
    """Return the layers whose weights are another layer's, too."""
    layers = builder.layers.values()
    times = Counter((layer.path, layer.place) for layer in layers)
    return {layer.name for layer in layers if times[layer.path, layer.place] > 1}


def _scaled(leaf: jax.Array, layer: Layer, scale: jax.Array) -> jax.Array:
    """Return a leaf with the outputs of a layer scaled."""
    rest = leaf.shape[len(layer.place) :]
    spread = in_leaf(layout_of(layer), jnp.broadcast_to(scale, layer.shape), rest)
    if not layer.place:
        return (widen(leaf) * spread).astype(leaf.dtype)
    return leaf.at[layer.place].set((widen(leaf[layer.place]) * spread).astype(leaf.dtype))


def _shifted(leaf: jax.Array, offset: Offset, shift: jax.Array) -> jax.Array:
    """Return a leaf with a shift of a layer's outputs in its entries."""
    change = offset.sign * shift[offset.channels]
    flat = widen(leaf).reshape(-1).at[offset.entries].add(change)
    return flat.reshape(leaf.shape).astype(leaf.dtype)


def _check_finite(moments: Mapping[str, Moments]) -> None:
    for name, found in moments.items():
        for what, values in zip(("mean", "spread"), found, strict=True):
            if not isinstance(values, jax.core.Tracer) and not np.isfinite(values).all():
                raise PruningError(
                    f"the {what} of what layer {name!r} gives is NaN or infinite: mend the inputs, "
                    "or the parameters before it"
                )
