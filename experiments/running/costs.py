"""What a network costs to run: multiply-adds of its pruned kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from lap_jax import Graph


def positions(module: nn.Module, input_shape: Sequence[int], graph: Graph) -> dict[str, int]:
    """Return how often each weight of a layer is used on one example.

    That is the number of positions of a convolution's output, of tokens for a dense layer that
    reads tokens, and else 1; an embedding is looked up and multiplies nothing. Computed from shapes
    alone.

    Args:
      module: a network, called ``(x [batch, *input_shape], train)``.
      input_shape: of one example, such as ``(32, 32, 3)``.
      graph: the layers, from `lap_jax.chain`.

    Returns:
      ``{layer name: positions}``, in the order of the graph.
    """

    def outputs(key: jax.Array, x: jax.Array) -> Any:
        return module.init(
            key, x, train=False, capture_intermediates=lambda part, _: _has_kernel(part),
            mutable=("params", "batch_stats", "intermediates"),
        )["intermediates"]  # fmt: skip

    example = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    shapes = flatten_dict(jax.eval_shape(outputs, jax.random.key(0), example), sep="/")
    return {
        name: sum(math.prod(call.shape[1:-1]) for call in shapes.get(f"{name}/__call__", ()))
        for name in graph.names
    }


def multiply_adds(positions: Mapping[str, int], weights: Mapping[str, int]) -> int:
    """Return the multiply-adds per example of layers with so many weights (all, or those kept).

    Biases, norms, and layers outside of the graph are not counted.
    """
    return sum(positions[name] * count for name, count in weights.items())


def _has_kernel(part: nn.Module) -> bool:
    return isinstance(part, (nn.Conv, nn.Dense))
