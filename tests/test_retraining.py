"""Pruned weights stay exactly zero through training, and the rest trains as if they never were."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lap_jax import (
    KeepPrunedState,
    PruningError,
    apply_masks,
    final_params,
    keep_pruned,
    lookahead_masks,
    masks_in,
)
from tests import oracle

Tree = dict[str, Any]
Make = Callable[[], optax.GradientTransformation]

OPTIMIZERS: dict[str, Make] = {
    "adam": lambda: optax.adam(1e-2),
    "adamw": lambda: optax.adamw(1e-2, weight_decay=0.1),
    "sgd with momentum": lambda: optax.sgd(1e-2, momentum=0.9, nesterov=True),
    "lion": lambda: optax.lion(1e-3, weight_decay=0.1),
    "adafactor": lambda: optax.adafactor(
        1e-2, min_dim_size_to_factor=4, weight_decay_rate=1e-3, momentum=0.9
    ),
}

rng = np.random.default_rng(0)
INPUTS = jnp.asarray(rng.normal(size=(64, 6)), jnp.float32)
TARGETS = jnp.asarray(rng.normal(size=(64, 3)), jnp.float32)


def start(seed: int = 0) -> tuple[Tree, Tree]:
    """Parameters and masks of a small MLP; the parameters are not masked yet."""
    params = oracle.dense_tree(np.random.default_rng(seed), [6, 16, 12, 3])
    masks = {
        name: {
            "kernel": jnp.asarray(
                np.random.default_rng((seed, i)).random(layer["kernel"].shape) < 0.3
            ),
            "bias": jnp.asarray(True),
        }
        for i, (name, layer) in enumerate(params.items())
    }
    return jax.tree.map(jnp.asarray, params), masks


def loss(params: Tree) -> jax.Array:
    value = INPUTS
    for i, layer in enumerate(params.values()):
        value = value @ layer["kernel"] + layer["bias"]
        value = jax.nn.tanh(value) if i + 1 < len(params) else value
    return ((value - TARGETS) ** 2).mean()


def revived(params: Any, masks: Any) -> jax.Array:
    """Number of weights that are pruned and not zero."""
    counts = jax.tree.map(lambda leaf, mask: jnp.sum((leaf != 0) & ~mask), params, masks)
    return sum(jax.tree.leaves(counts), jnp.zeros((), int))


def train(optimizer: Any, params: Tree, masks: Tree, steps: int) -> tuple[Tree, Any, jax.Array]:
    """Parameters, optimizer state, and at the end of every step the number of revived weights."""

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        gradients = jax.grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), revived(params, masks)

    first = (params, optimizer.init(params))
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))
    (params, state), history = run(first)
    return params, state, history


def train_masked(inner: Any, params: Tree, masks: Tree, steps: int) -> Tree:
    """The independent run: `loss(params * masks)`, the plain optimizer, masked after each step."""

    def mask(tree: Tree) -> Tree:
        return jax.tree.map(lambda leaf, keep: leaf * keep, tree, masks)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        gradients = jax.grad(lambda tree: loss(mask(tree)))(params)
        updates, state = inner.update(gradients, state, params)
        return (mask(optax.apply_updates(params, updates)), state), None

    first = (mask(params), inner.init(mask(params)))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))(first)[0][0]


def assert_same(found: Tree, wanted: Tree, rtol: float = 1e-4) -> None:
    chex.assert_trees_all_close(found, wanted, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_are_zero_and_the_rest_trains_as_if_masked(name: str) -> None:
    params, masks = start()
    optimizer = keep_pruned(OPTIMIZERS[name](), masks)
    found, _, history = train(optimizer, apply_masks(params, masks), masks, 200)
    chex.assert_trees_all_equal(history, jnp.zeros(200, int))
    wanted = train_masked(OPTIMIZERS[name](), params, masks, 200)
    assert_same(found, wanted)
    assert float(loss(found)) < 0.8 * float(loss(apply_masks(params, masks)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_packed_masks_give_the_same_updates_bit_for_bit(name: str) -> None:
    """With an eighth of the memory: the widths 16, 12 and 3 are two bytes, two and one."""
    params, masks = start()
    params = apply_masks(params, masks)
    plain, packed = (keep_pruned(OPTIMIZERS[name](), masks, pack=pack) for pack in (False, True))
    found, wanted = (train(optimizer, params, masks, 20) for optimizer in (packed, plain))
    chex.assert_trees_all_equal(found[0], wanted[0])
    chex.assert_trees_all_equal(found[1].inner_state, wanted[1].inner_state)
    held = found[1].masks
    assert held["Dense_0/kernel"].shape == (6, 2)
    assert sum(mask.nbytes for mask in held.values()) <= 6 * 2 + 16 * 2 + 12 + 3
    chex.assert_trees_all_equal(masks_in(found[1], params), masks_in(wanted[1]))
    chex.assert_trees_all_equal(final_params(found[0], found[1]), wanted[0])


def test_packed_masks_say_where_their_shapes_are() -> None:
    params, masks = start()
    state = keep_pruned(optax.sgd(0.1), masks, pack=True).init(apply_masks(params, masks))
    with pytest.raises(PruningError, match=r"is packed, .* as in masks_in\(state, params\)"):
        masks_in(state)
    other = {**params, "Dense_0": {"kernel": jnp.ones((6, 99)), "bias": jnp.ones(99)}}
    with pytest.raises(PruningError, match=r"the packed mask 'Dense_0/kernel' has shape \(6, 2\)"):
        masks_in(state, other)


@pytest.mark.parametrize("layout", [P("a", None), P(None, "a")])
def test_packed_masks_lie_over_devices_as_the_weights_do(layout: Any) -> None:
    sharding = NamedSharding(jax.make_mesh((4,), ("a",)), layout)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(8, 32)), jnp.float32)
    mask = np.asarray(jnp.abs(weights) > 0.7)
    alone = {"kernel": jnp.where(mask, weights, 0)}
    placed = jax.device_put(alone, sharding)
    optimizer = keep_pruned(optax.adam(0.1), {"kernel": jax.device_put(mask, sharding)}, pack=True)

    def step(params: Any, state: Any) -> Any:
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(placed)
    assert state.masks["kernel"].shape == (8, 4)
    assert state.masks["kernel"].sharding.is_equivalent_to(sharding, 2)
    found, state = jax.jit(step)(placed, state)
    wanted, _ = jax.jit(step)(alone, optimizer.init(alone))
    assert found["kernel"].sharding.is_equivalent_to(sharding, 2)
    assert state.masks["kernel"].sharding.is_equivalent_to(sharding, 2)
    chex.assert_trees_all_equal(jax.device_get(found), jax.device_get(wanted))


def test_optaxs_masks_select_leaves_and_ours_select_weights() -> None:
    """What `keep_pruned` says of `optax.masked`, with the error that a search for it finds."""
    params, masks = start()
    with pytest.raises(ValueError, match="truth value of an array with more than one element is"):
        optax.masked(optax.adam(0.1), masks).init(params)
    params = apply_masks(params, masks)
    kernels = jax.tree.map(lambda leaf: leaf.ndim == 2, params)
    optimizer = optax.chain(
        optax.masked(keep_pruned(optax.adam(0.1), masks), kernels),
        optax.masked(optax.set_to_zero(), jax.tree.map(lambda chosen: not chosen, kernels)),
    )
    found, _, history = train(optimizer, params, masks, 5)
    chex.assert_trees_all_equal(history, jnp.zeros(5, int))
    for name, layer in params.items():
        chex.assert_trees_all_equal(found[name]["bias"], layer["bias"])  # frozen
        assert bool((found[name]["kernel"] != layer["kernel"]).any())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_the_wrapper_pruned_weights_come_back(name: str) -> None:
    """The proof above proves something: the same training revives nearly all of them."""
    params, masks = start()
    _, _, history = train(OPTIMIZERS[name](), apply_masks(params, masks), masks, 3)
    assert history[-1] > 100


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adams_moments_at_pruned_places_are_zero(name: str) -> None:
    params, masks = start()
    optimizer = keep_pruned(OPTIMIZERS[name](), masks)
    _, state, _ = train(optimizer, apply_masks(params, masks), masks, 50)
    for moment in ("mu", "nu"):
        tree = optax.tree.get(state.inner_state, moment)
        assert int(revived(tree, masks)) == 0
        assert all((leaf != 0).any() for leaf in jax.tree.leaves(tree))


def test_weights_not_yet_masked_are_zero_after_the_first_step() -> None:
    params, masks = start()
    optimizer = keep_pruned(optax.adam(1e-2), masks)
    assert revived(params, masks) > 100
    _, _, history = train(optimizer, params, masks, 20)
    assert not history.any()


def kernels_only(tree: Tree) -> Tree:
    return {name: {"kernel": True, "bias": False} for name in tree}


def labels(tree: Tree) -> Tree:
    return {name: {"kernel": "kernel", "bias": "bias"} for name in tree}


SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 10, 60)

COMPOSED: dict[str, Callable[[Tree], Any]] = {
    "clip, then keep_pruned": lambda masks: optax.chain(
        optax.clip_by_global_norm(1.0), keep_pruned(optax.adamw(1e-2), masks)
    ),
    "last link of a chain": lambda masks: optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.1),
        optax.scale_by_schedule(SCHEDULE),
        optax.scale(-1.0),
        keep_pruned(optax.identity(), masks),
    ),
    "inner optax.masked": lambda masks: keep_pruned(
        optax.chain(
            optax.masked(optax.add_decayed_weights(0.1), kernels_only), optax.sgd(0.1, 0.9)
        ),
        masks,
    ),
    "outer optax.masked": lambda masks: optax.chain(
        optax.masked(keep_pruned(optax.adamw(1e-2), masks), kernels_only),
        optax.masked(optax.set_to_zero(), labels_are_bias),
    ),
    "multi_transform": lambda masks: optax.multi_transform(
        {"kernel": keep_pruned(optax.adam(1e-2), masks), "bias": optax.sgd(1e-2)}, labels
    ),
    "outer MultiSteps": lambda masks: optax.MultiSteps(
        keep_pruned(optax.adamw(1e-2), masks), 4
    ).gradient_transformation(),
    "inner MultiSteps": lambda masks: keep_pruned(
        optax.MultiSteps(optax.adamw(1e-2), 4).gradient_transformation(), masks
    ),
    "schedule": lambda masks: keep_pruned(optax.adam(SCHEDULE), masks),
    "inner inject_hyperparams": lambda masks: keep_pruned(
        optax.inject_hyperparams(optax.adamw)(learning_rate=SCHEDULE), masks
    ),
    "outer inject_hyperparams": lambda masks: optax.inject_hyperparams(
        lambda learning_rate: keep_pruned(optax.adamw(learning_rate), masks)
    )(learning_rate=SCHEDULE),
    "noise": lambda masks: keep_pruned(
        optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(1e-2)), masks
    ),
    "apply_if_finite": lambda masks: optax.apply_if_finite(keep_pruned(optax.adam(1e-2), masks), 3),
    "twice": lambda masks: keep_pruned(keep_pruned(optax.adamw(1e-2), masks), masks),
}


def labels_are_bias(tree: Tree) -> Tree:
    return {name: {"kernel": False, "bias": True} for name in tree}


@pytest.mark.parametrize("case", COMPOSED)
def test_pruned_weights_stay_zero_in_compositions(case: str) -> None:
    params, masks = start()
    params = apply_masks(params, masks)
    found, _, history = train(COMPOSED[case](masks), params, masks, 60)
    assert not history.any()
    chex.assert_tree_all_finite(found)
    for name in params:
        moved = np.asarray(found[name]["kernel"] != params[name]["kernel"])
        assert moved[np.asarray(masks[name]["kernel"])].mean() > 0.9


PLAIN: dict[str, Make] = {
    "inner optax.masked": lambda: optax.chain(
        optax.masked(optax.add_decayed_weights(0.1), kernels_only), optax.sgd(0.1, 0.9)
    ),
    "multi_transform": lambda: optax.multi_transform(
        {"kernel": optax.adam(1e-2), "bias": optax.sgd(1e-2)}, labels
    ),
    "outer MultiSteps": lambda: optax.MultiSteps(optax.adamw(1e-2), 4).gradient_transformation(),
    "inner MultiSteps": lambda: optax.MultiSteps(optax.adamw(1e-2), 4).gradient_transformation(),
    "schedule": lambda: optax.adam(SCHEDULE),
    "inner inject_hyperparams": lambda: optax.adamw(SCHEDULE),
    "outer inject_hyperparams": lambda: optax.adamw(SCHEDULE),
    "apply_if_finite": lambda: optax.adam(1e-2),
    "twice": lambda: optax.adamw(1e-2),
}


@pytest.mark.parametrize("case", PLAIN)
def test_compositions_equal_the_masked_run(case: str) -> None:
    params, masks = start()
    found, _, _ = train(COMPOSED[case](masks), apply_masks(params, masks), masks, 60)
    assert_same(found, train_masked(PLAIN[case](), params, masks, 60))


def test_networks_side_by_side_train_as_each_alone() -> None:
    nets = [start(seed) for seed in range(3)]
    params, masks = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(net[i] for net in nets)) for i in (0, 1)
    )

    def fit(params: Tree, masks: Tree) -> tuple[Tree, jax.Array]:
        optimizer = keep_pruned(optax.adamw(1e-2), masks)
        found, _, history = train(optimizer, apply_masks(params, masks), masks, 60)
        return found, history

    together, history = jax.vmap(fit)(params, masks)
    assert not history.any()
    for i, net in enumerate(nets):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        assert_same(alone, train_masked(optax.adamw(1e-2), *net, 60))


class Net(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(6, 16, rngs=rngs)
        self.second = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(jnp.tanh(self.first(x)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nnx_optimizer_keeps_them_too(name: str) -> None:
    """`nnx.Optimizer` passes paths with `/value` to `init`, and without to `update`."""
    model = Net()
    params = nnx.state(model, nnx.Param)
    masks = lookahead_masks(params, ["first", "second"], 0.7)
    nnx.update(model, apply_masks(params, masks))
    optimizer = nnx.Optimizer(model, keep_pruned(OPTIMIZERS[name](), masks), wrt=nnx.Param)

    @nnx.jit
    def step(model: Net, optimizer: nnx.Optimizer[Net]) -> None:
        gradients = nnx.grad(lambda net: ((net(INPUTS) - TARGETS) ** 2).mean())(model)
        optimizer.update(model, gradients)

    before = np.asarray(model.first.kernel[...])
    for _ in range(20):
        step(model, optimizer)
        assert int(revived(nnx.state(model, nnx.Param), masks)) == 0
    # A kept weight into a neuron without a way out has no gradient: most move, not all.
    assert 24 <= (np.asarray(model.first.kernel[...]) != before).sum() <= round(0.3 * 96)


# ---------------------------------------------------------------- the masks belong to the user


def test_masks_survive_the_donation_of_the_state() -> None:
    params, masks = start()
    copies = jax.tree.map(np.asarray, masks)
    params = apply_masks(params, masks)
    optimizer = keep_pruned(optax.adam(1e-2), masks)

    def step(params: Tree, state: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    donating = jax.jit(step, donate_argnums=(0, 1))
    state = optimizer.init(params)
    given = state.masks["Dense_0/kernel"]
    for _ in range(3):
        params, state = donating(params, state)
    assert given.is_deleted()  # The donation took place.
    chex.assert_trees_all_equal(masks, copies)
    optimizer.init(params)
    assert int(revived(params, masks)) == 0


def test_state_holds_the_masks_by_path() -> None:
    params, masks = start()
    state = keep_pruned(optax.adam(1e-2), masks).init(params)
    assert isinstance(state, KeepPrunedState)
    wanted = {f"{name}/{leaf}": masks[name][leaf] for name in masks for leaf in masks[name]}
    chex.assert_trees_all_equal(state.masks, wanted)


def test_a_second_round_of_pruning_reuses_the_compiled_step(
    count_compilations: Callable[[], AbstractContextManager[list[str]]],
) -> None:
    params, masks = start()
    _, other = start(1)
    fewer = jax.tree.map(lambda a, b: a & b, masks, other)
    optimizer = keep_pruned(optax.adam(1e-2), masks)

    @jax.jit
    def step(params: Tree, state: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = apply_masks(params, masks)
    params, state = step(params, optimizer.init(params))
    state = state._replace(masks=keep_pruned(optax.adam(1e-2), fewer).init(params).masks)
    params = apply_masks(params, fewer)
    with count_compilations() as compiled:
        params, state = step(params, state)
    assert not compiled
    assert int(revived(params, fewer)) == 0


def test_gradients_that_are_not_numbers_stop_at_pruned_places() -> None:
    params, masks = start()
    params = apply_masks(params, masks)
    gradients = jax.tree.map(lambda leaf, mask: jnp.where(mask, 0.1, jnp.nan), params, masks)
    gradients = jax.tree.map(
        lambda leaf, grad: jnp.broadcast_to(grad, leaf.shape), params, gradients
    )
    optimizer = keep_pruned(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)), masks)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    chex.assert_tree_all_finite(after)
    assert int(revived(after, masks)) == 0


def test_extra_arguments_reach_the_inner_optimizer() -> None:
    params, masks = start()
    params = apply_masks(params, masks)
    optimizer = keep_pruned(optax.polyak_sgd(), masks)
    value, gradients = jax.value_and_grad(loss)(params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params, value=value)
    after = optax.apply_updates(params, updates)
    assert int(revived(after, masks)) == 0
    assert loss(after) != value


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_keep_dtype_and_zeros(dtype: str) -> None:
    params, masks = start()
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    found, _, history = train(keep_pruned(optax.adamw(1e-2), masks), params, masks, 20)
    assert not history.any()
    chex.assert_type(jax.tree.leaves(found), dtype)


# ---------------------------------------------------------------- apply_masks


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_apply_masks_gives_exact_zeros_and_keeps_dtypes(dtype: str) -> None:
    params, masks = start()
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    found = apply_masks(params, masks)
    wanted = jax.tree.map(
        lambda leaf, mask: np.where(mask, leaf, np.zeros_like(leaf)), params, masks
    )
    chex.assert_trees_all_equal(found, wanted)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, params)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_apply_masks_removes_what_is_not_a_number(bad: float) -> None:
    params = {"a": {"kernel": jnp.array([[bad, 1.0], [2.0, bad]])}}
    masks = {"a": {"kernel": jnp.array([[False, True], [False, True]])}}
    found = np.asarray(apply_masks(params, masks)["a"]["kernel"])
    np.testing.assert_array_equal(found, [[0, 1], [0, bad]])


def test_apply_masks_works_under_jit_and_vmap() -> None:
    params, masks = start()
    wanted = apply_masks(params, masks)
    assert_same(jax.jit(apply_masks)(params, masks), wanted, 0)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    found = jax.vmap(apply_masks, in_axes=(0, None))(many, masks)
    assert_same(jax.tree.map(lambda leaf: leaf[1], found), jax.tree.map(lambda x: 2 * x, wanted), 0)


# ---------------------------------------------------------------- trees that do not match


def broken(how: str) -> tuple[Tree, Tree, str]:
    params, masks = start()
    match how:
        case "a mask without a parameter":
            del params["Dense_1"]
            return params, masks, "Dense_1/"
        case "another shape":
            masks["Dense_2"]["kernel"] = masks["Dense_2"]["kernel"].T
            return params, masks, r"Dense_2/kernel.*\(12, 3\).*\(3, 12\)"
    raise AssertionError(how)


MISMATCHES = ["a mask without a parameter", "another shape"]


@pytest.mark.parametrize("how", MISMATCHES)
def test_masks_of_another_tree_are_refused(how: str) -> None:
    params, masks, message = broken(how)
    with pytest.raises(PruningError, match=message):
        keep_pruned(optax.adam(1e-2), masks).init(params)
    with pytest.raises(PruningError, match=message):
        apply_masks(params, masks)


@pytest.mark.parametrize("missing", [None, "gone"])
def test_a_missing_mask_keeps_its_parameter(missing: str | None) -> None:
    params, masks = start()
    if missing is None:
        masks["Dense_1"] = {"kernel": None, "bias": None}
    else:
        del masks["Dense_1"]
    pruned = apply_masks(params, masks)
    chex.assert_trees_all_equal(pruned["Dense_1"], params["Dense_1"])
    assert int((pruned["Dense_0"]["kernel"] == 0).sum())
    optimizer = keep_pruned(optax.adam(1e-2), masks)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert (np.asarray(updates["Dense_1"]["kernel"]) != 0).all()


def test_masks_without_an_array_are_refused() -> None:
    params, _ = start()
    for masks in ({}, {"Dense_0": None}):
        with pytest.raises(PruningError, match="holds none"):
            apply_masks(params, masks)
        with pytest.raises(PruningError, match="holds none"):
            keep_pruned(optax.sgd(0.1), masks)


@pytest.mark.parametrize("value", [0.5, 1.0])
def test_masks_of_fractions_are_refused(value: float) -> None:
    params, masks = start()
    halves = jax.tree.map(lambda mask: mask * np.float32(value), masks)
    with pytest.raises(PruningError, match=r"Dense_0/.*float32: expected booleans"):
        apply_masks(params, halves)
    twos = jax.tree.map(lambda mask: mask * np.int8(2), masks)
    with pytest.raises(PruningError, match=r"int8: expected booleans"):
        keep_pruned(optax.sgd(0.1), twos).init(params)


def test_another_optimizers_state_is_told_from_ours() -> None:
    params, masks = start()
    optimizer = keep_pruned(optax.sgd(0.1), masks)
    with pytest.raises(PruningError, match=r"EmptyState|tuple.*optimizer.init"):
        optimizer.update(params, optax.sgd(0.1).init(params), params)


def test_update_refuses_other_parameters_than_init() -> None:
    params, masks = start()
    optimizer = keep_pruned(optax.identity(), masks)
    state = optimizer.init(params)
    other = {"Dense_9": params["Dense_0"]}
    with pytest.raises(PruningError, match="mask 'Dense_0/"):
        optimizer.update(other, state, other)


def test_update_needs_the_parameters() -> None:
    params, masks = start()
    optimizer = keep_pruned(optax.adam(1e-2), masks)
    with pytest.raises(PruningError, match="params"):
        optimizer.update(params, optimizer.init(params))


# ---------------------------------------------------------------- types, values, copies

HALVES_AND_FLOATS = ["float32", "bfloat16", "float16"]


@pytest.mark.parametrize("of_updates", HALVES_AND_FLOATS)
@pytest.mark.parametrize("of_params", HALVES_AND_FLOATS)
def test_updates_of_any_type_take_pruned_weights_to_zero(of_params: str, of_updates: str) -> None:
    """Rounded to the update's own type, ``-w`` would leave what the rounding took."""
    params, masks = start()
    params = jax.tree.map(lambda leaf: leaf.astype(of_params), params)
    steps = jax.tree.map(lambda leaf: (0.1 * leaf).astype(of_updates), params)
    optimizer = keep_pruned(optax.identity(), masks)
    updates, _ = optimizer.update(steps, optimizer.init(params), params)
    found = optax.apply_updates(params, updates)
    wanted = apply_masks(optax.apply_updates(params, steps), masks)
    chex.assert_trees_all_equal(found, wanted)
    chex.assert_trees_all_equal_dtypes(found, params)
    chex.assert_type(jax.tree.leaves(updates), jnp.promote_types(of_params, of_updates))


def test_trees_of_several_types() -> None:
    params, masks = start()
    of_params = dict(zip(params, ["float32", "bfloat16", "float32"], strict=True))
    of_updates = dict(zip(params, ["bfloat16", "float32", "float16"], strict=True))
    params = {name: cast(layer, of_params[name]) for name, layer in params.items()}
    steps = {name: cast(layer, of_updates[name]) for name, layer in params.items()}
    optimizer = keep_pruned(optax.sgd(0.1), masks)
    updates, _ = optimizer.update(steps, optimizer.init(params), params)
    found = optax.apply_updates(params, updates)
    assert not revived(found, masks)
    chex.assert_trees_all_equal_dtypes(found, params)


def cast(tree: Tree, dtype: str) -> Tree:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pruned_weights_that_no_update_can_mend_are_refused(bad: float) -> None:
    params, masks = start()
    gone = np.argwhere(~np.asarray(masks["Dense_1"]["kernel"]))[:2]
    params["Dense_1"]["kernel"] = params["Dense_1"]["kernel"].at[tuple(gone.T)].set(bad)
    optimizer = keep_pruned(optax.adam(1e-2), masks)
    with pytest.raises(PruningError, match=r"'Dense_1/kernel' has 2 pruned .*apply_masks"):
        optimizer.init(params)
    jax.eval_shape(optimizer.init, params)  # Under a trace there is nothing to see.
    state = optimizer.init(apply_masks(params, masks))
    updates, _ = optimizer.update(params, state, apply_masks(params, masks))
    chex.assert_tree_all_finite(updates)


def test_a_kept_weight_may_be_anything() -> None:
    params, masks = start()
    kept = np.argwhere(np.asarray(masks["Dense_1"]["kernel"]))[0]
    params["Dense_1"]["kernel"] = params["Dense_1"]["kernel"].at[tuple(kept)].set(jnp.nan)
    keep_pruned(optax.adam(1e-2), masks).init(params)


@pytest.mark.parametrize("masked_first", [False, True])
def test_the_average_of_schedule_free_is_zero_too(masked_first: bool) -> None:
    """It is made of the weights and of a copy that `init` takes."""
    params, masks = start()
    if masked_first:
        params = apply_masks(params, masks)
    inner = optax.contrib.schedule_free_adamw(1e-2, weight_decay=0.1)
    found, state, history = train(keep_pruned(inner, masks), params, masks, 5)
    assert not history.any()
    average = optax.contrib.schedule_free_eval_params(state.inner_state, found)
    assert not revived(average, masks)
    assert revived(average, jax.tree.map(jnp.zeros_like, masks)) > 100


def test_both_copies_of_lookahead_are_zero() -> None:
    params, masks = start()
    both = optax.LookaheadParams.init_synced(apply_masks(params, masks))
    optimizer = optax.lookahead(keep_pruned(optax.adamw(1e-2), masks), 2, 0.5)

    @jax.jit
    def step(both: Any, state: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(both.fast), state, both)
        return optax.apply_updates(both, updates), state

    state = optimizer.init(both)
    for _ in range(4):
        both, state = step(both, state)
        assert not revived(both.fast, masks)
        assert not revived(both.slow, masks)
    assert not np.array_equal(both.slow["Dense_0"]["kernel"], params["Dense_0"]["kernel"])


CONTRIB: dict[str, Make] = {
    "ademamix": lambda: optax.contrib.ademamix(1e-2, weight_decay=0.1),
    "cocob": lambda: optax.contrib.cocob(),
    "dadapt_adamw": lambda: optax.contrib.dadapt_adamw(weight_decay=0.1),
    "dowg": lambda: optax.contrib.dowg(weight_decay=0.1),
    "mechanize": lambda: optax.contrib.mechanize(optax.adamw(1e-2), weight_decay=0.1),
    "muon": lambda: optax.contrib.muon(1e-2, weight_decay=0.1),
    "prodigy": lambda: optax.contrib.prodigy(weight_decay=0.1),
    "sam": lambda: optax.contrib.sam(optax.sgd(1e-2), optax.sgd(1e-2), sync_period=2),
    "lamb": lambda: optax.lamb(1e-2, weight_decay=0.1),
}


@pytest.mark.parametrize("name", CONTRIB)
def test_optimizers_that_keep_copies_or_look_at_whole_layers(name: str) -> None:
    """Whether or not the parameters are masked before, training goes the same way."""
    params, masks = start()
    found, _, history = train(keep_pruned(CONTRIB[name](), masks), params, masks, 4)
    assert not history.any()
    chex.assert_tree_all_finite(found)


# ---------------------------------------------------------------- unusual leaves


def test_leaves_that_are_none_or_numbers() -> None:
    params = {"kernel": jnp.ones((2, 3)), "frozen": None, "scale": 2.0, "off": jnp.ones(())}
    masks = {"kernel": jnp.eye(2, 3, dtype=bool), "frozen": None, "scale": True, "off": False}
    optimizer = keep_pruned(optax.adamw(0.1), masks)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    found = optax.apply_updates(params, updates)
    assert found["frozen"] is None
    assert found["off"] == 0
    assert 0 < found["scale"] < 2
    np.testing.assert_array_equal(found["kernel"] != 0, masks["kernel"])


def test_a_tree_that_is_masked_out_as_a_whole() -> None:
    params, masks = start()
    optimizer = optax.masked(keep_pruned(optax.sgd(0.1), masks), False)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    chex.assert_trees_all_equal(updates, params)


def test_masks_may_be_numbers() -> None:
    params, masks = start()
    ones = jax.tree.map(lambda mask: mask.astype(jnp.int8), masks)
    optimizer = keep_pruned(optax.sgd(0.1), ones)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert not revived(optax.apply_updates(params, updates), masks)
