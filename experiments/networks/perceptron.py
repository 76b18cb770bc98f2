"""Networks of dense layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from experiments.networks.parts import outputs
from experiments.networks.setting import ACTIVATIONS, Setting
from experiments.paper import TABLES


class Perceptron(nn.Module):
    """Dense layers on the flattened input, an activation after every layer but the last.

    Kernels are Glorot normal, cut off at two standard deviations as Flax does; biases are zero.
    """

    widths: Sequence[int]
    classes: int
    activation: Callable[[jax.Array], jax.Array]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return logits ``[batch, classes]``; ``train`` changes nothing."""
        x = x.reshape(x.shape[0], -1)
        init = nn.initializers.glorot_normal()
        for width in self.widths:
            x = self.activation(nn.Dense(width, kernel_init=init, dtype=self.dtype)(x))
        return nn.Dense(self.classes, kernel_init=init, dtype=jnp.float32)(x)

    def with_widths(self, widths: Sequence[int]) -> Perceptron:
        """Return the network with these numbers of neurons, of each hidden layer."""
        return self.clone(widths=tuple(widths))

    def widths_in(self, params: Any) -> tuple[int, ...]:
        """Return how many neurons hidden layers have, as `with_widths` takes them."""
        return outputs(params, "Dense", len(self.widths))


def fcn(classes: int, activation: str) -> Perceptron:
    """Four hidden layers of 500."""
    return Perceptron((500,) * 4, classes, ACTIVATIONS[activation])


def linear(classes: int, activation: str) -> Perceptron:
    """One hidden layer of 1,000, without activations unless one is named (Section 2.1)."""
    return Perceptron((1000,), classes, ACTIVATIONS[activation])


_FCN = Setting(
    fcn, "digits", [f"Dense_{i}" for i in range(5)], TABLES["Table 1"].taus, 50_000, 50_000,
    learning_rate=1.2e-3, q=0.5, whole=("Dense_4",), table="Table 1",
)  # fmt: skip

SETTINGS = {
    "fcn": _FCN,
    # The paper does not say which levels and steps Figure 2 has: they are the FCN's here. Its
    # learning rate is that of "all other models".
    "linear": _FCN._replace(
        build=linear, chain=["Dense_0", "Dense_1"], activation="none", learning_rate=3e-4,
        whole=("Dense_1",),
    ),
}  # fmt: skip
