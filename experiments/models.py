"""The models of the experiments: their networks, layer chains and settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from experiments.networks import conv6, resnet, vgg
from experiments.networks.perceptron import Perceptron
from experiments.paper import TABLES

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "none": lambda x: x,
}


class Setting(NamedTuple):
    """What the paper fixes for a model (Appendix C).

    Attributes:
      build: ``(classes, activation name) -> module``. The module computes in float32;
        ``module.clone(dtype=jnp.bfloat16)`` computes in bfloat16.
      chain: the layers, for `lap_jax.chain`; read with the batch_stats, where there are any.
      activation: name of the default activation.
      p, q: kept fractions per level of convolutions and dense layers, for `lap_jax.paper_sparsity`.
      learning_rate: of Adam.
      train_steps, retrain_steps: of Adam, before and after pruning.
      taus: the levels of the paper's table.
      unpruned: names of layers left whole, for `lap_jax.paper_sparsity`.
      augment: whether the training images are cropped and flipped at random (`experiments.augment`;
        by the authors' code).
      chain_identity: the same layers with the shortcuts as identities, where there are shortcuts.
    """

    build: Callable[[int, str], nn.Module]
    chain: Sequence[Any]
    activation: str
    p: float
    q: float
    learning_rate: float
    train_steps: int
    retrain_steps: int
    taus: tuple[int, ...]
    unpruned: tuple[str, ...] = ()
    augment: bool = False
    chain_identity: Sequence[Any] | None = None


def _fcn(classes: int, activation: str) -> Perceptron:
    """Four hidden layers of 500."""
    return Perceptron((500,) * 4, classes, ACTIVATIONS[activation])


def _linear(classes: int, activation: str) -> Perceptron:
    """One hidden layer of 1,000, without activations unless one is named (Section 2.1)."""
    return Perceptron((1000,), classes, ACTIVATIONS[activation])


def _conv6(classes: int, activation: str) -> conv6.Conv6:
    return conv6.Conv6(classes, ACTIVATIONS[activation])


def _vgg(depths: Sequence[int], classes: int, activation: str) -> vgg.VGG:
    return vgg.VGG(depths, classes, ACTIVATIONS[activation])


def _resnet18(classes: int, activation: str) -> resnet.ResNet18:
    return resnet.ResNet18(classes, ACTIVATIONS[activation])


def _cifar(
    table: str,
    build: Callable[[int, str], nn.Module],
    chain: Sequence[Any],
    train_steps: int,
    retrain_steps: int,
) -> Setting:
    """Return what the models of CIFAR-10 have in common."""
    taus = TABLES[table].taus
    return Setting(
        build, chain, "relu", 0.85, 0.8, 3e-4, train_steps, retrain_steps, taus, augment=True
    )


_FCN = Setting(
    _fcn, [f"Dense_{i}" for i in range(5)], "relu", 0.85, 0.5, 1.2e-3, 50_000, 50_000,
    TABLES["Table 1"].taus,
)  # fmt: skip

MODELS = {
    "fcn": _FCN,
    # The paper does not say which levels and steps Figure 2 has: they are the FCN's here. Its
    # learning rate is that of "all other models".
    "linear": _FCN._replace(
        build=_linear, chain=["Dense_0", "Dense_1"], activation="none", learning_rate=3e-4
    ),
    "conv6": _cifar("Table 2", _conv6, conv6.CHAIN, 30_000, 20_000),
    "vgg11": _cifar("Table 3", partial(_vgg, vgg.VGG11), vgg.chain(vgg.VGG11), 35_000, 25_000),
    "vgg16": _cifar("Table 4", partial(_vgg, vgg.VGG16), vgg.chain(vgg.VGG16), 50_000, 35_000),
    "vgg19": _cifar("Table 5", partial(_vgg, vgg.VGG19), vgg.chain(vgg.VGG19), 60_000, 40_000),
    "resnet18": _cifar("Table 6", _resnet18, resnet.chain(), 35_000, 25_000)._replace(
        unpruned=("Conv_0",), chain_identity=resnet.chain_identity()
    ),
}
