import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from experiments.benchmarks.distortion import (
    NETS,
    Distortion,
    agreement,
    brute_force,
    compare,
    report,
    residual,
)


@pytest.mark.parametrize("name", ["residual, 1 block", "concatenating", "grouped"])
def test_brute_force_is_what_removing_a_weight_changes(name: str) -> None:
    net = NETS[name](np.random.default_rng(0))
    truth = brute_force(net)
    basis = jnp.eye(int(np.prod(net.shape))).reshape(-1, *net.shape)
    whole = net.apply(net.params, basis)
    for layer, place in (("stem", 3), ("head", 5)):
        kernel = net.params[layer]["kernel"]
        index = np.unravel_index(place, kernel.shape)
        without = kernel.copy()
        without[index] = 0
        changed = net.apply({**net.params, layer: {"kernel": without}}, basis)
        wanted = float(jnp.linalg.norm(whole - changed))
        assert truth[layer][index] == pytest.approx(wanted, rel=1e-3)


def test_agreement_is_one_for_the_truth_and_for_its_square() -> None:
    truth = {"a": np.random.default_rng(0).random((8, 9))}
    assert agreement(truth, truth) == pytest.approx((1, 1))
    assert agreement({"a": truth["a"] ** 2}, truth) == pytest.approx((1, 1))
    assert agreement({"a": -truth["a"]}, truth).ranks == pytest.approx(-1)


@pytest.mark.parametrize("name", NETS)
def test_networks_are_linear_and_read_whole(name: str) -> None:
    net = NETS[name](np.random.default_rng(0))
    x, y = jax.random.normal(jax.random.key(0), (2, 1, *net.shape))
    both = net.apply(net.params, x) + net.apply(net.params, y)
    chex.assert_trees_all_close(net.apply(net.params, x + y), both, rtol=2e-3, atol=1e-4)
    graph = lap_jax.trace(net.apply, net.params, x)
    assert set(graph.names) == set(net.params)
    assert graph.barriers == ()


def test_measured_norms_agree_best() -> None:
    found = compare(residual(np.random.default_rng(1), 2, width=16), 512, 0)
    assert found["LAP, measured on noise"].ranks > 0.98
    assert max(found, key=lambda name: found[name].ranks) == "LAP, measured on noise"
    text = report(Distortion(seeds=1), {"residual": [found]}, {"MP": 1.0, "LAP, traced": 2.0})
    assert "| MP | 1000 | 0.50 |" in text
