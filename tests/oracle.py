"""Lookahead pruning by brute force in NumPy float64, written from the paper's text alone.

Nothing here comes from `lap_jax`. A network is a list of `Layer`; neurons of a feature map are
numbered position first, channel last (the order in which Flax flattens `[h, w, c]`), so a dense
layer after a flatten is its kernel, transposed, with nothing to rearrange.

Convolutions are circular, so that every position of a channel sees the same weights, as in the
paper's footnote 1.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Tree = dict[str, Any]


class Layer(NamedTuple):
    """A kernel `[in, out]` or `[kh, kw, in / groups, out]` and the gain of the norm behind it."""

    kernel: Array
    gain: Array | None = None
    groups: int = 1
    strides: int = 1


class Method(NamedTuple):
    """Section 2.3: which neighbours count, in which order layers are pruned, in how many steps."""

    score: str = "lookahead"
    direction: str = "both"
    order: str | None = None
    steps: int = 1


METHODS = {
    "MP": Method(score="magnitude"),
    "LFP": Method(direction="forward"),
    "LBP": Method(direction="backward"),
    "LAP": Method(),
    "LAP-forward": Method(order="forward"),
    "LAP-backward": Method(order="backward"),
    "LAP-forward-seq": Method(order="forward", steps=5),
    "LAP-backward-seq": Method(order="backward", steps=5),
}


# ---------------------------------------------------------------- Jacobian matrices, Eq. (4)


def jacobian(layer: Layer, grid: int) -> tuple[Array, int]:
    """`J(W)`, `[outputs, inputs]`, on a square map of `grid` x `grid`, and the map's next size."""
    kernel = np.asarray(layer.kernel, np.float64)
    if kernel.ndim == 2:
        return kernel.T, 1
    return circulant(kernel, grid, layer.strides, layer.groups), grid // layer.strides


def circulant(kernel: Array, grid: int, strides: int, groups: int) -> Array:
    """The matrix of a circular convolution: one row per output position and channel."""
    height, width, fan_in, outputs = kernel.shape
    inputs, small = fan_in * groups, grid // strides
    matrix = np.zeros((small, small, outputs, grid, grid, inputs))
    for row in range(small):
        for column in range(small):
            for output in range(outputs):
                first = output // (outputs // groups) * fan_in
                for p in range(height):
                    for q in range(width):
                        y, x = (row * strides + p) % grid, (column * strides + q) % grid
                        for channel in range(fan_in):
                            weight = kernel[p, q, channel, output]
                            matrix[row, column, output, y, x, first + channel] += weight
    return matrix.reshape(small * small * outputs, grid * grid * inputs)


def norm_matrix(gain: Array | None, size: int) -> Array:
    """Eq. (8) as a diagonal matrix over `size` neurons, channel fastest."""
    if gain is None:
        return np.eye(size)
    return np.diag(np.tile(np.asarray(gain, np.float64), size // len(gain)))


def eq4(layer: Layer, before: Array, after: Array, grid: int = 1) -> Array:
    """`|| after J(W) before - after J(W with w = 0) before ||_F`, one weight w at a time."""
    whole = after @ jacobian(layer, grid)[0] @ before
    kernel = np.asarray(layer.kernel, np.float64)
    scores = np.zeros(kernel.shape)
    for place in np.ndindex(*kernel.shape):
        without = kernel.copy()
        without[place] = 0.0
        block = after @ jacobian(layer._replace(kernel=without), grid)[0] @ before
        scores[place] = np.linalg.norm(whole - block)
    return scores


def chain_eq4(layers: Sequence[Layer], grid: int = 1, direction: str = "both") -> list[Array]:
    """Eq. (4) along a chain; `W_0` and `W_{L+1}` are ones with a single input or output channel."""
    matrices, gains, grids = [], [], [grid]
    for layer in layers:
        matrix, smaller = jacobian(layer, grids[-1])
        matrices.append(matrix)
        gains.append(norm_matrix(layer.gain, matrix.shape[0]))
        grids.append(smaller)
    scores = []
    for i, layer in enumerate(layers):
        outputs, inputs = matrices[i].shape
        dense = layer.kernel.ndim == 2
        positions = 1 if dense else grids[i] ** 2
        before: Array = np.kron(np.eye(positions), np.ones((inputs // positions, 1)))
        read = grids[i + 1] ** 2
        after: Array = np.kron(np.eye(read), np.ones((1, outputs // read)))
        if i > 0 and direction != "forward":
            before = gains[i - 1] @ matrices[i - 1]
        if i + 1 < len(layers) and direction != "backward":
            after = matrices[i + 1]
        # The norm behind this layer belongs to the look forward, the one in front to the look back.
        if direction != "backward":
            after = after @ gains[i]
        scores.append(eq4(layer, before, after, grids[i]))
    return scores


# ---------------------------------------------------------------- Eq. (5) and Eq. (9), by loops


def chain_eq9(layers: Sequence[Layer], direction: str = "both") -> list[Array]:
    """`|w| a_{i-1}[j] a_i[k] ||W_{i-1}[j, :]|| ||W_{i+1}[:, k]||`, neuron by neuron."""
    return [eq9(layers, i, direction) for i in range(len(layers))]


def eq9(layers: Sequence[Layer], i: int, direction: str = "both") -> Array:
    layer = layers[i]
    kernel = np.asarray(layer.kernel, np.float64)
    fan_in, outputs = kernel.shape[-2:]
    back, ahead = np.ones(fan_in * layer.groups), np.ones(outputs)
    if i > 0 and direction != "forward":
        back = into(layers[i - 1], fan_in * layer.groups)
    if direction != "backward":
        if i + 1 < len(layers):
            ahead = out_of(layers[i + 1], outputs)
        if layer.gain is not None:
            ahead = ahead * np.abs(np.asarray(layer.gain, np.float64))
    scores = np.zeros(kernel.shape)
    for place in np.ndindex(*kernel.shape):
        j, k = place[-2], place[-1]
        j += k // (outputs // layer.groups) * fan_in
        scores[place] = abs(kernel[place]) * back[j] * ahead[k]
    return scores


def into(previous: Layer, neurons: int) -> Array:
    """`a[j] ||W[j, :]||` of the previous layer, for each of the `neurons` that are read."""
    kernel = np.asarray(previous.kernel, np.float64)
    outputs = kernel.shape[-1]
    flow = np.zeros(neurons)
    for neuron in range(neurons):
        channel = neuron % outputs
        flow[neuron] = np.sqrt((kernel[..., channel] ** 2).sum())
        if previous.gain is not None:
            flow[neuron] *= abs(float(previous.gain[channel]))
    return flow


def out_of(following: Layer, neurons: int) -> Array:
    """`||W[:, k]||` of the next layer, for each of the `neurons` of this one."""
    kernel = np.asarray(following.kernel, np.float64)
    fan_in, outputs = kernel.shape[-2:]
    flow = np.zeros(neurons)
    for channel in range(fan_in * following.groups):
        group, local = channel // fan_in, channel % fan_in
        width = outputs // following.groups
        reached = kernel[..., local, group * width : (group + 1) * width]
        flow[channel % neurons] += (reached**2).sum()
    return np.sqrt(flow)


# ---------------------------------------------------------------- Algorithm 1 and Section 2.3


def keep_best(scores: Array, keep: int) -> Array:
    """True for the `keep` largest; among equals the earlier in row-major order stays."""
    best = np.argsort(-scores.ravel(), kind="stable")[:keep]
    mask = np.zeros(scores.size, bool)
    mask[best] = True
    return mask.reshape(scores.shape)


def masks(
    layers: Sequence[Layer],
    sparsity: float | Sequence[float],
    method: Method,
    scores_of: Callable[[Sequence[Layer], int, str], Array] = eq9,
) -> list[Array]:
    """The masks of Section 2.3, True where a weight stays."""
    count = len(layers)
    levels = [sparsity] * count if isinstance(sparsity, int | float) else list(sparsity)
    layers = [layer._replace(kernel=np.asarray(layer.kernel, np.float64)) for layer in layers]
    current = list(layers)
    kept = [np.ones(layer.kernel.shape, bool) for layer in layers]
    turn = range(count - 1, -1, -1) if method.order == "backward" else range(count)
    for step in range(1, method.steps + 1):
        seen = list(current)
        for i in turn:
            basis = seen if method.order is None else current
            if method.score == "magnitude":
                scores = np.abs(basis[i].kernel)
            else:
                scores = scores_of(basis, i, method.direction)
            removed = levels[i] if step == method.steps else step * levels[i] / method.steps
            # What has been pruned stays pruned: below every weight that is alive, even a zero.
            alive = np.where(kept[i], scores, -1.0)
            kept[i] = keep_best(alive, round((1 - removed) * layers[i].kernel.size))
            current[i] = layers[i]._replace(kernel=layers[i].kernel * kept[i])
    return kept


# ---------------------------------------------------------------- networks to try it on


def dense_tree(rng: np.random.Generator, widths: Sequence[int], dtype: Any = np.float32) -> Tree:
    """An MLP as Flax lays it out: `Dense_0`, `Dense_1`, ... with kernels `[in, out]` and biases."""
    return {
        f"Dense_{i}": {
            "kernel": rng.normal(size=(a, b)).astype(dtype),
            "bias": rng.normal(size=b).astype(dtype),
        }
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    }


def norm_trees(rng: np.random.Generator, sizes: Sequence[int]) -> tuple[Tree, Tree]:
    """`BatchNorm_i` with gammas of both signs (params) and positive variances (batch_stats)."""
    params, stats = {}, {}
    for i, size in enumerate(sizes):
        params[f"BatchNorm_{i}"] = {
            "scale": rng.normal(size=size).astype(np.float32),
            "bias": rng.normal(size=size).astype(np.float32),
        }
        stats[f"BatchNorm_{i}"] = {
            "mean": rng.normal(size=size).astype(np.float32),
            "var": rng.uniform(1e-6, 2, size=size).astype(np.float32),
        }
    return params, stats


def gain(params: Tree, stats: Tree, name: str, epsilon: float = 1e-5) -> Array:
    """`gamma / sqrt(var + eps)`, with gamma's sign."""
    var = np.asarray(stats[name]["var"], np.float64)
    scale = np.asarray(params.get(name, {}).get("scale", np.ones_like(var)), np.float64)
    return scale / np.sqrt(var + epsilon)


def layers_of(tree: Tree, names: Sequence[str], **fields: Sequence[Any]) -> list[Layer]:
    """The tree's kernels as oracle layers; `gain`, `groups`, `strides`: one per layer."""
    return [
        Layer(
            np.asarray(tree[name]["kernel"], np.float64),
            **{key: values[i] for key, values in fields.items()},
        )
        for i, name in enumerate(names)
    ]
