"""What an experiment needs to know of a network: how to build it, its layers, its levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from experiments.paper import TABLES

Build = Callable[[int, str], nn.Module]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "none": lambda x: x,
}

WIDTHS = ("widths", "hidden", "width")
"""Fields of a module that say how many neurons its layers have."""


class Setting(NamedTuple):
    """A network and what is fixed for it, by the paper (Appendix C) where it is the paper's.

    Attributes:
      build: ``(classes, activation name) -> module``. The module computes in float32;
        ``module.clone(dtype=jnp.bfloat16)`` computes in bfloat16.
      dataset: what it is trained on by default.
      chain: the layers, for `lap_jax.chain`; read with the batch_stats, where there are any. Empty:
        what feeds what is traced.
      chain_identity: the same layers with the shortcuts as identities, where there are shortcuts.
      taus: the levels by default; those of the paper's table, where there is one.
      train_steps, retrain_steps: of Adam, before and after pruning.
      learning_rate: of Adam.
      activation: name of the default activation.
      p, q: kept fractions per level of convolutions and dense layers, for `lap_jax.paper_sparsity`.
      unpruned: names of layers left whole, for `lap_jax.paper_sparsity`.
      whole: names of layers left whole where all others lose the same fraction.
      augment: whether the training images are cropped and flipped at random
        (`experiments.data.augment`; by the authors' code).
      side: rows and columns of the images that it reads at least; 0: any, or no images.
      table: the paper's, if it is one of the paper's networks.
    """

    build: Build
    dataset: str
    chain: Sequence[Any]
    taus: tuple[int, ...]
    train_steps: int
    retrain_steps: int
    learning_rate: float = 3e-4
    activation: str = "relu"
    p: float = 0.85
    q: float = 0.8
    unpruned: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    augment: bool = False
    side: int = 0
    chain_identity: Sequence[Any] | None = None
    table: str | None = None


def of_cifar(
    table: str, build: Build, chain: Sequence[Any], train_steps: int, retrain_steps: int
) -> Setting:
    """Return what the paper's networks for CIFAR-10 have in common."""
    return Setting(
        build, "cifar10", chain, TABLES[table].taus, train_steps, retrain_steps, augment=True,
        table=table,
    )  # fmt: skip


def resized(module: nn.Module, widths: Sequence[int]) -> nn.Module:
    """Return a module whose hidden layers have these widths, one each.

    Raises:
      ValueError: if the network takes no such list, or one of another length.
    """
    if not hasattr(module, "with_widths"):
        raise ValueError(f"{type(module).__name__} takes no widths of single layers")
    return module.with_widths(widths)


def narrowed(module: nn.Module, divisor: int) -> nn.Module:
    """Return a module with a fraction of the neurons in every layer but the last, one at least."""
    if divisor == 1:
        return module
    numbers: dict[str, Any] = {
        name: _divided(getattr(module, name), divisor) for name in WIDTHS if hasattr(module, name)
    }
    return module.clone(**numbers)


def _divided(number: Any, divisor: int) -> Any:
    if isinstance(number, int):
        return max(number // divisor, 1)
    return tuple(_divided(each, divisor) for each in number)
