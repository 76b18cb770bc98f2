"""The networks of the experiments, their layer chains and their levels of sparsity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "none": lambda x: x,
}


class Perceptron(nn.Module):
    """Dense layers on the flattened input; Glorot normal kernels, zero biases.

    ``[batch, ...] -> [batch, classes]``, an activation after every layer but the last.
    """

    widths: Sequence[int]
    classes: int
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return logits."""
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = self.activation(nn.Dense(width, kernel_init=nn.initializers.glorot_normal())(x))
        return nn.Dense(self.classes, kernel_init=nn.initializers.glorot_normal())(x)


class Setting(NamedTuple):
    """What the paper fixes for a model (Appendix C).

    Attributes:
      build: ``(classes, activation name) -> module``.
      chain: the layers, for `lap_jax.chain`.
      activation: name of the default activation.
      p, q: kept fractions per level of convolutions and dense layers, for `lap_jax.paper_sparsity`.
      learning_rate: of Adam.
    """

    build: Callable[[int, str], nn.Module]
    chain: Sequence[Any]
    activation: str
    p: float
    q: float
    learning_rate: float


def fcn(classes: int, activation: str) -> Perceptron:
    """Four hidden layers of 500."""
    return Perceptron((500,) * 4, classes, ACTIVATIONS[activation])


def linear(classes: int, activation: str) -> Perceptron:
    """One hidden layer of 1,000, without activations unless one is named (Section 2.1)."""
    return Perceptron((1000,), classes, ACTIVATIONS[activation])


MODELS = {
    "fcn": Setting(fcn, [f"Dense_{i}" for i in range(5)], "relu", 0.85, 0.5, 1.2e-3),
    # The paper does not say which levels Figure 2 has: they are the FCN's here. Its learning rate
    # is that of "all other models".
    "linear": Setting(linear, ["Dense_0", "Dense_1"], "none", 0.85, 0.5, 3e-4),
}
