"""What must not change the masks, and what must."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax import lookahead_masks, lookahead_scores
from tests import oracle

WIDTHS = [7, 9, 8, 5]
ORDERS = ["LAP", "LFP", "LBP", "LAP-forward", "LAP-backward", "LAP-backward-seq"]


def net(widths: list[int], seed: int = 0) -> oracle.Tree:
    return oracle.dense_tree(np.random.default_rng(seed), widths)


def with_kernels(params: oracle.Tree, **kernels: Any) -> oracle.Tree:
    return params | {
        name: params[name] | {"kernel": np.asarray(kernel, np.float32)}
        for name, kernel in kernels.items()
    }


def masks(params: oracle.Tree, method: str = "LAP", sparsity: float = 0.6) -> dict[str, Any]:
    found = lookahead_masks(params, list(params), sparsity, method=method)
    return {name: np.asarray(found[name]["kernel"]) for name in params}


@pytest.mark.parametrize("method", ORDERS)
@pytest.mark.parametrize("factors", [(0.25, 1, 8), (3.7, 0.011, 190)])
def test_scaling_whole_layers_changes_no_mask(method: str, factors: tuple[float, ...]) -> None:
    params = net(WIDTHS)
    scaled = {
        name: {"kernel": layer["kernel"] * np.float32(factor)}
        for (name, layer), factor in zip(params.items(), factors, strict=True)
    }
    before, after = masks(params, method), masks(scaled, method)
    for name in params:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("method", ["MP", *ORDERS])
def test_permuting_hidden_neurons_permutes_the_masks(method: str) -> None:
    params = net(WIDTHS)
    rng = np.random.default_rng(1)
    first, second = rng.permutation(9), rng.permutation(8)
    a, b, c = (layer["kernel"] for layer in params.values())
    moved = with_kernels(
        params, Dense_0=a[:, first], Dense_1=b[first][:, second], Dense_2=c[second]
    )
    before, after = masks(params, method), masks(moved, method)
    np.testing.assert_array_equal(after["Dense_0"], before["Dense_0"][:, first])
    np.testing.assert_array_equal(after["Dense_1"], before["Dense_1"][first][:, second])
    np.testing.assert_array_equal(after["Dense_2"], before["Dense_2"][second])


def rescaled(params: oracle.Tree, seed: int = 2) -> oracle.Tree:
    """The same function: a positive diagonal moved across every hidden neuron."""
    rng = np.random.default_rng(seed)
    kernels = [layer["kernel"].astype(np.float64) for layer in params.values()]
    for i in range(len(kernels) - 1):
        diagonal = np.exp(rng.normal(size=kernels[i].shape[1]))
        kernels[i] = kernels[i] * diagonal
        kernels[i + 1] = kernels[i + 1] / diagonal[:, None]
    return with_kernels(params, **dict(zip(params, kernels, strict=True)))


def test_middle_layer_of_three_is_invariant_to_rescaling_neurons() -> None:
    params = net(WIDTHS)
    scores, again = (
        lookahead_scores(tree, list(tree))["Dense_1"] for tree in (params, rescaled(params))
    )
    np.testing.assert_allclose(again, scores, rtol=1e-5)
    np.testing.assert_array_equal(masks(params)["Dense_1"], masks(rescaled(params))["Dense_1"])


def test_magnitude_has_no_such_invariance() -> None:
    params = net(WIDTHS)
    assert (masks(params, "MP")["Dense_1"] != masks(rescaled(params), "MP")["Dense_1"]).any()


def test_a_deeper_net_is_not_invariant_to_rescaling_every_neuron() -> None:
    """Lookahead sees one layer each way: the far ends of its neighbours are someone else's."""
    params = net([7, 9, 8, 6, 5])
    before, after = masks(params), masks(rescaled(params))
    assert all((before[name] != after[name]).any() for name in ("Dense_1", "Dense_2"))


def test_middle_layer_of_three_is_the_l2_path_score() -> None:
    """w^2 dS/d(w^2), S the net on squared weights and ones, by autodiff and by paths."""
    params = net([3, 4, 3, 2])
    squares = [jnp.asarray(layer["kernel"]) ** 2 for layer in params.values()]

    def total(kernels: list[jax.Array]) -> jax.Array:
        value = jnp.ones(3)
        for kernel in kernels:
            value = value @ kernel
        return value.sum()

    path = squares[1] * jax.grad(total)(squares)[1]
    a, b, c = (np.asarray(square, np.float64) for square in squares)
    by_hand = np.zeros_like(b)
    for i, j, k, out in itertools.product(range(3), range(4), range(3), range(2)):
        by_hand[j, k] += a[i, j] * b[j, k] * c[k, out]
    score = np.asarray(lookahead_scores(params, list(params))["Dense_1"]) ** 2
    np.testing.assert_allclose(score, path, rtol=1e-5)
    np.testing.assert_allclose(score, by_hand, rtol=1e-5)


def test_within_one_output_neuron_lookahead_is_lookback() -> None:
    """N:M groups along the input axis compare weights of one neuron: what follows cancels."""
    params = net(WIDTHS)
    both = lookahead_scores(params, list(params))
    back = lookahead_scores(params, list(params), method="LBP")
    for name in params:
        np.testing.assert_array_equal(np.argsort(both[name], 0), np.argsort(back[name], 0))


def test_within_one_input_neuron_lookahead_is_lookforward() -> None:
    params = net(WIDTHS)
    both = lookahead_scores(params, list(params))
    forward = lookahead_scores(params, list(params), method="LFP")
    for name in params:
        np.testing.assert_array_equal(np.argsort(both[name], 1), np.argsort(forward[name], 1))


def test_signs_and_biases_do_not_matter() -> None:
    params = net(WIDTHS)
    flipped = {
        name: {"kernel": np.abs(layer["kernel"]), "bias": layer["bias"] * 100}
        for name, layer in params.items()
    }
    for method in ORDERS:
        before, after = masks(params, method), masks(flipped, method)
        assert all((before[name] == after[name]).all() for name in params)


def test_inputs_are_left_untouched() -> None:
    params = net(WIDTHS)
    copy = jax.tree.map(np.copy, params)
    masks(params, "LAP-forward-seq")
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, copy))
