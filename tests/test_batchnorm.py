"""Eq. 9 with real Flax modules: the Jacobian of the whole network says what a weight is worth."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lap_jax import LayerSpec, Norm, lookahead_masks, lookahead_scores
from tests import oracle


class ConvNet(nn.Module):
    """No activations: 1x1 conv, batch norm, 2x2 conv with stride 2, batch norm, flatten, dense."""

    epsilon: float = 1e-5
    use_scale: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm: Any = lambda: nn.BatchNorm(  # noqa: E731
            use_running_average=True, epsilon=self.epsilon, use_scale=self.use_scale
        )
        x = norm()(nn.Conv(3, (1, 1))(x))
        x = norm()(nn.Conv(4, (2, 2), strides=2, padding="VALID")(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class FlattenNet(nn.Module):
    """3x3 conv, batch norm, flatten, dense, dense."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(3, (3, 3), padding="CIRCULAR")(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        x = nn.Dense(5)(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(x)


def randomized(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.Array) -> jax.Array:
        if "var" in jax.tree_util.keystr(path):
            return jnp.asarray(rng.uniform(0.05, 2, leaf.shape), leaf.dtype)
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, tree)


def frobenius_changes(forward: Any, kernel: jax.Array) -> np.ndarray[Any, Any]:
    """How much the network's Jacobian changes when one weight becomes zero, for each of them."""
    whole = forward(kernel)

    def change(index: jax.Array) -> jax.Array:
        without = kernel.ravel().at[index].set(0).reshape(kernel.shape)
        return jnp.sqrt(((whole - forward(without)) ** 2).sum())

    return np.asarray(jax.lax.map(change, jnp.arange(kernel.size))).reshape(kernel.shape)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize("epsilon", [1e-5, 0.3])
def test_scores_are_the_change_of_a_linen_networks_jacobian(
    use_scale: bool, epsilon: float
) -> None:
    model, x = ConvNet(epsilon, use_scale), jnp.ones((4, 4, 2))
    variables = randomized(model.init(jax.random.key(0), x[None]), 0)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)

    def forward(kernel: jax.Array) -> jax.Array:
        params = variables["params"] | {
            "Conv_1": variables["params"]["Conv_1"] | {"kernel": kernel}
        }
        apply = lambda x: model.apply(variables | {"params": params}, x[None])  # noqa: E731
        return jax.jacrev(apply)(x.astype(jnp.float64))

    declared: list[Any] = [
        "Conv_0",
        Norm("BatchNorm_0", epsilon),
        LayerSpec("Conv_1", strides=2, norm=Norm("BatchNorm_1", epsilon)),
        "Dense_0",
    ]
    found = lookahead_scores(variables["params"], declared, batch_stats=variables["batch_stats"])
    wanted = frobenius_changes(forward, variables["params"]["Conv_1"]["kernel"])
    np.testing.assert_allclose(found["Conv_1"], wanted, rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_dense_rows_after_a_flatten_meet_flax_channels() -> None:
    model, x = FlattenNet(), jnp.ones((4, 4, 2))
    variables = randomized(model.init(jax.random.key(0), x[None]), 1)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)

    def forward(kernel: jax.Array) -> jax.Array:
        params = variables["params"] | {
            "Dense_0": variables["params"]["Dense_0"] | {"kernel": kernel}
        }
        apply = lambda x: model.apply(variables | {"params": params}, x[None])  # noqa: E731
        return jax.jacrev(apply)(x.astype(jnp.float64))

    declared = ["Conv_0", "BatchNorm_0", "Dense_0", "Dense_1"]
    found = lookahead_scores(variables["params"], declared, batch_stats=variables["batch_stats"])
    wanted = frobenius_changes(forward, variables["params"]["Dense_0"]["kernel"])
    np.testing.assert_allclose(found["Dense_0"], wanted, rtol=1e-8)


class NnxNet(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 3, (1, 1), rngs=rngs)
        self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=rngs)
        self.middle = nnx.Conv(3, 4, (2, 2), strides=2, padding="VALID", rngs=rngs)
        self.after = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.after(self.middle(self.norm(self.conv(x))))
        return self.head(x.reshape(x.shape[0], -1))


@pytest.mark.usefixtures("x64")
def test_scores_are_the_change_of_an_nnx_networks_jacobian() -> None:
    model = NnxNet()
    state = randomized(nnx.state(model), 2)
    nnx.update(model, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state))
    definition, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = states

    def forward(kernel: jax.Array) -> jax.Array:
        def apply(x: jax.Array) -> jax.Array:
            changed = jax.tree_util.tree_map_with_path(
                lambda path, leaf: (
                    kernel if "'middle'" in jax.tree_util.keystr(path) and leaf.ndim == 4 else leaf
                ),
                params,
            )
            return nnx.merge(definition, changed, stats)(x[None])

        return jax.jacrev(apply)(jnp.ones((4, 4, 2)))

    declared = ["conv", "norm", "middle", "after", "head"]
    found = lookahead_scores(params, declared, batch_stats=stats)
    wanted = frobenius_changes(forward, model.middle.kernel[...])
    np.testing.assert_allclose(found["middle"], wanted, rtol=1e-8)


# ---------------------------------------------------------------- masks


def normed(seed: int = 0) -> tuple[oracle.Tree, oracle.Tree, list[str]]:
    rng = np.random.default_rng(seed)
    params = oracle.dense_tree(rng, [6, 8, 7, 5])
    norms, stats = oracle.norm_trees(rng, [8, 7, 5])
    names = [name for pair in zip(params, norms, strict=True) for name in pair]
    return params | norms, stats, names


@pytest.mark.parametrize("method", ["LAP", "LFP", "LBP", "LAP-backward-seq"])
def test_a_negative_gamma_counts_by_its_size(method: Any) -> None:
    """The sign of gamma must not turn the order of Algorithm 1 around."""
    params, stats, declared = normed()
    positive = jax.tree.map(np.copy, params)
    for name in ("BatchNorm_0", "BatchNorm_1", "BatchNorm_2"):
        assert (params[name]["scale"] < 0).any()
        positive[name]["scale"] = np.abs(params[name]["scale"])
    one, two = (
        lookahead_masks(tree, declared, 0.7, method=method, batch_stats=stats)
        for tree in (params, positive)
    )
    chex.assert_trees_all_equal(one, two)


def test_magnitude_ignores_batch_norm() -> None:
    params, stats, declared = normed()
    plain = [name for name in declared if name.startswith("Dense")]
    one = lookahead_masks(params, declared, 0.7, method="MP", batch_stats=stats)
    two = lookahead_masks(params, plain, 0.7, method="MP")
    chex.assert_trees_all_equal(one, two)


def test_batch_norm_changes_the_lookahead_order() -> None:
    params, stats, declared = normed()
    plain = [name for name in declared if name.startswith("Dense")]
    one = lookahead_masks(params, declared, 0.7, batch_stats=stats)
    two = lookahead_masks(params, plain, 0.7)
    assert all((one[name]["kernel"] != two[name]["kernel"]).any() for name in plain)


def test_a_neuron_with_gamma_zero_goes_first() -> None:
    params, stats, declared = normed()
    params["BatchNorm_0"]["scale"][:2] = 0
    masks = lookahead_masks(params, declared, 0.25, batch_stats=stats)
    wanted = np.broadcast_to(np.arange(8) >= 2, (6, 8))
    chex.assert_trees_all_equal(masks["Dense_0"]["kernel"], wanted)


def test_norm_parameters_are_never_pruned() -> None:
    params, stats, declared = normed()
    masks = lookahead_masks(params, declared, 0.9, batch_stats=stats)
    for name in ("BatchNorm_0", "BatchNorm_1", "BatchNorm_2"):
        chex.assert_trees_all_equal(masks[name], dict.fromkeys(params[name], jnp.array(True)))
