"""What is fixed for a network: its activations, the paper's numbers, its divided widths."""

import chex
import flax.linen as nn
import jax.numpy as jnp
import pytest

from experiments.networks.conv6 import Conv6
from experiments.networks.setting import ACTIVATIONS, narrowed, of_cifar, resized
from experiments.networks.vit import ViT
from experiments.paper import TABLES


def test_widths_are_divided_down_to_one_neuron() -> None:
    module = Conv6(10)
    assert narrowed(module, 1) is module
    half, least = narrowed(module, 2), narrowed(module, 1000)
    assert isinstance(half, Conv6)
    assert isinstance(least, Conv6)
    assert (half.widths, half.hidden, half.classes) == ((32, 64, 128), (128, 128), 10)
    assert (least.widths, least.hidden) == ((1, 1, 1), (1, 1))
    thin = narrowed(ViT(10, width=64), 4)
    assert isinstance(thin, ViT)
    assert (thin.width, thin.depth) == (16, ViT(10).depth)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_do_what_their_names_say(name: str) -> None:
    x = jnp.array([-2.0, 0.0, 0.5])
    wanted = {
        "relu": jnp.maximum(x, 0),
        "tanh": jnp.tanh(x),
        "sigmoid": 1 / (1 + jnp.exp(-x)),
        "none": x,
    }
    chex.assert_trees_all_close(ACTIVATIONS[name](x), wanted[name], rtol=1e-5)


def test_a_network_for_cifar_takes_the_levels_of_its_table() -> None:
    setting = of_cifar("Table 4", lambda classes, _: nn.Dense(classes), ("a", "b"), 7, 5)
    assert (setting.dataset, setting.augment, setting.table) == ("cifar10", True, "Table 4")
    assert setting.taus == TABLES["Table 4"].taus
    assert (setting.train_steps, setting.retrain_steps) == (7, 5)
    assert (setting.p, setting.q, setting.learning_rate) == (0.85, 0.8, 3e-4)


def test_widths_go_to_networks_that_take_them() -> None:
    assert resized(Conv6(10, hidden=()), (1, 2, 3, 4, 5, 6)).widths == ((1, 2), (3, 4), (5, 6))
    with pytest.raises(ValueError, match="ViT takes no widths of single layers"):
        resized(ViT(10), (1, 2))
