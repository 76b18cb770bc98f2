"""Pruning during training: against a plain script that prunes between its steps."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lap_jax
from lap_jax import PruningError, cubic_schedule, iterative_schedule, masks_in, prune_in_training

CHAIN = ["a", "b", "c"]
SIZES = {"a": (6, 12), "b": (12, 10), "c": (10, 3)}
INPUTS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, 40)


def network(seed: int = 0, dtype: Any = jnp.float32) -> Any:
    rng = np.random.default_rng(seed)
    return {
        name: {
            "kernel": jnp.asarray(rng.normal(size=shape), dtype),
            "bias": jnp.zeros(shape[1], dtype),
        }
        for name, shape in SIZES.items()
    }


def loss(params: Any) -> jax.Array:
    x = jnp.asarray(INPUTS, params["a"]["kernel"].dtype)
    for name in CHAIN:
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = jnp.tanh(x) if name != "c" else x
    x = x.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(x, jnp.asarray(LABELS)).mean()


def graph() -> lap_jax.Graph:
    return lap_jax.chain(network(), CHAIN)


def train(optimizer: Any, params: Any, steps: int, reconnect: bool) -> tuple[Any, Any]:
    """A compiled step in a Python loop."""

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        def masked(params: Any) -> jax.Array:
            return loss(lap_jax.apply_masks(params, masks_in(state)) if reconnect else params)

        updates, state = optimizer.update(jax.grad(masked)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def zeros(masks: dict[str, jax.Array]) -> dict[str, int]:
    return {name: int((~masks[f"{name}/kernel"]).sum()) for name in CHAIN}


@pytest.mark.parametrize("method", ["MP", "LAP", "LAP-backward-seq"])
def test_iterative_pruning_is_a_script_that_prunes_between_steps(method: Any) -> None:
    schedule = iterative_schedule(0.8, 3, 4, begin=2)
    assert [step for step, _ in schedule] == [2, 6, 10]
    optimizer = prune_in_training(optax.sgd(0.1), graph(), schedule, method=method, reconnect=False)
    found, state = train(optimizer, network(), 14, reconnect=False)

    params, masks = network(), None
    for step in range(14):
        for when, sparsity in schedule:
            if when == step:
                if masks is not None:
                    params = lap_jax.apply_masks(params, masks)
                masks = lap_jax.lookahead_masks(params, CHAIN, sparsity, method=method, masks=masks)
        gradient = jax.grad(loss)(params)
        if masks is not None:
            gradient = lap_jax.apply_masks(gradient, masks)
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, gradient)
        if masks is not None:
            params = lap_jax.apply_masks(params, masks)
    chex.assert_trees_all_close(found, params, rtol=1e-4, atol=1e-6)
    assert zeros(masks_in(state)) == {
        name: np.prod(shape) - round(0.2 * np.prod(shape)) for name, shape in SIZES.items()
    }


def test_gradual_pruning_is_a_script_that_trains_dense_weights() -> None:
    schedule = cubic_schedule(0.9, 1, 9, 4)
    optimizer = prune_in_training(optax.sgd(0.1), graph(), schedule)
    found, state = train(optimizer, network(), 12, reconnect=True)

    params, masks = network(), jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), network())
    for step in range(12):
        gradient = jax.grad(lambda params: loss(lap_jax.apply_masks(params, masks)))(params)  # noqa: B023
        for when, sparsity in schedule:
            if when == step:
                masks = lap_jax.lookahead_masks(params, CHAIN, sparsity)
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, gradient)
    chex.assert_trees_all_close(found, params, rtol=1e-4, atol=1e-6)
    for name in CHAIN:
        np.testing.assert_array_equal(masks_in(state)[f"{name}/kernel"], masks[name]["kernel"])
        assert (found[name]["kernel"] != 0).all()  # dense all along


def test_a_pruned_weight_comes_back_when_it_has_grown() -> None:
    params = {"a": {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]])}}
    only = lap_jax.chain(params, ["a"])
    optimizer = prune_in_training(optax.sgd(1.0), only, [(0, 0.5), (2, 0.5)], method="MP")
    state = optimizer.init(params)
    seen = []
    # The gradients come from outside: the second and third update let the first weight grow.
    for change in ([0, 0, 0, 0], [9, 0, 0, 0], [0, 0, 0, 0]):
        gradient = {"a": {"kernel": -jnp.array([change], jnp.float32)}}
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(masks_in(state)["a/kernel"][0].tolist())
    assert seen[0] == seen[1] == [False, False, True, True]
    assert seen[2] == [True, False, False, True]


def test_without_reconnect_masks_nest_even_through_ties_at_zero() -> None:
    params = network()
    params["b"]["kernel"] = params["b"]["kernel"].at[:, :6].set(0.0)  # dead neurons: scores of zero
    masks, before = None, None
    for sparsity in (0.3, 0.6, 0.9, 0.95):
        masks = lap_jax.lookahead_masks(params, CHAIN, sparsity, masks=before)
        for name, shape in SIZES.items():
            own = masks[name]["kernel"]
            assert int(own.sum()) == round((1 - sparsity) * np.prod(shape))
            if before is not None:
                assert not (own & ~before[name]["kernel"]).any()
        before = masks


@pytest.mark.parametrize("method", ["MP", "LAP", "LAP-forward", "LAP-backward-seq"])
def test_earlier_masks_count_as_zeros(method: Any) -> None:
    params = network(3)
    first = lap_jax.lookahead_masks(params, CHAIN, 0.5)
    again = lap_jax.lookahead_masks(params, CHAIN, 0.8, method=method, masks=first)
    zeroed = lap_jax.lookahead_masks(lap_jax.apply_masks(params, first), CHAIN, 0.8, method=method)
    for name in CHAIN:
        # The sequential steps differ: those that only remove zeros have nothing to do.
        if method != "LAP-backward-seq":
            np.testing.assert_array_equal(again[name]["kernel"], zeroed[name]["kernel"])
        assert not (again[name]["kernel"] & ~first[name]["kernel"]).any()


@pytest.mark.parametrize(
    "inner",
    [
        pytest.param(optax.adamw(0.05, weight_decay=0.1), marks=pytest.mark.slow),
        optax.sgd(0.1, 0.9),
    ],
)
def test_pruned_weights_are_zero_between_prunings(inner: Any) -> None:
    optimizer = prune_in_training(inner, graph(), iterative_schedule(0.7, 2, 5), reconnect=False)
    for steps in (1, 4, 6, 11):
        params, state = train(optimizer, network(), steps, reconnect=False)
        for name in CHAIN:
            mask = masks_in(state)[f"{name}/kernel"]
            assert (params[name]["kernel"][~mask] == 0).all()
            assert (~mask).sum() > 0


def test_rewinding_takes_the_weights_back() -> None:
    optimizer = prune_in_training(
        optax.adam(0.05),
        graph(),
        iterative_schedule(0.75, 2, 5, begin=5),
        reconnect=False,
        rewind=True,
    )
    start = network()
    for steps in (6, 11):  # just after each pruning
        params, state = train(optimizer, start, steps, reconnect=False)
        for path, mask in masks_in(state).items():
            name, leaf = path.split("/")
            wanted = np.where(mask, start[name][leaf], 0)
            np.testing.assert_allclose(params[name][leaf], wanted, rtol=1e-6, atol=1e-7)
        assert int(state.inner_state[0].count) == 0
    params, _ = train(optimizer, start, 9, reconnect=False)
    assert not np.allclose(params["a"]["bias"], start["a"]["bias"])


def test_scan_equals_the_loop_and_vmap_each_alone() -> None:
    optimizer = prune_in_training(optax.adam(0.02), graph(), cubic_schedule(0.8, 0, 6, 3))

    def run(params: Any) -> Any:
        def step(carry: Any, _: Any) -> tuple[Any, None]:
            params, state = carry
            gradient = jax.grad(lambda p: loss(lap_jax.apply_masks(p, masks_in(state))))(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=8)
        return lap_jax.apply_masks(params, masks_in(state))

    alone = [jax.jit(run)(network(seed)) for seed in (0, 1)]
    looped, state = train(optimizer, network(), 8, reconnect=True)
    chex.assert_trees_all_close(alone[0], lap_jax.apply_masks(looped, masks_in(state)), rtol=1e-4)
    both = jax.jit(jax.vmap(run))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(network, (0, 1)))
    )
    for lane, one in enumerate(alone):
        mine = jax.tree.map(partial(lambda lane, leaf: leaf[lane], lane), both)
        chex.assert_trees_all_close(mine, one, rtol=1e-3, atol=1e-5)


def test_one_compilation_serves_every_event(count_compilations: Any) -> None:
    optimizer = prune_in_training(
        optax.sgd(0.1), graph(), iterative_schedule(0.9, 4, 1), reconnect=False
    )
    params = network()
    state = optimizer.init(params)
    step = jax.jit(lambda p, s: optimizer.update(jax.grad(loss)(p), s, p))
    step(params, state)
    with count_compilations() as events:
        for _ in range(5):
            _, state = step(params, state)
    assert not events


def test_masks_are_found_inside_of_other_states() -> None:
    ours = prune_in_training(optax.sgd(0.1), graph(), [(0, 0.5)], reconnect=False)
    chained = optax.chain(optax.clip_by_global_norm(1.0), ours)
    several = optax.MultiSteps(chained, 2)
    params, state = train(several, network(), 4, reconnect=False)
    assert zeros(masks_in(state))["a"] == 36
    assert (params["a"]["kernel"] == 0).sum() == 36
    with pytest.raises(PruningError, match="0 states with masks"):
        masks_in(optax.adam(0.1).init(params))
    with pytest.raises(PruningError, match="2 states with masks"):
        masks_in((state, state))


def test_random_pruning_nests_and_half_precision_stays_half() -> None:
    optimizer = prune_in_training(
        optax.sgd(0.01), graph(), iterative_schedule(0.8, 4, 1), method="RP", reconnect=False,
        key=jax.random.key(0),
    )  # fmt: skip
    params, _ = train(optimizer, network(dtype=jnp.bfloat16), 4, reconnect=False)
    assert params["a"]["kernel"].dtype == jnp.bfloat16
    assert int((params["b"]["kernel"] != 0).sum()) == round(0.2 * 120)


def test_a_checkpoint_in_the_middle_changes_nothing(tmp_path: Any) -> None:
    import orbax.checkpoint as ocp

    optimizer = prune_in_training(
        optax.adam(0.02), graph(), iterative_schedule(0.8, 3, 3), reconnect=False
    )
    whole, _ = train(optimizer, network(), 8, reconnect=False)
    halfway = train(optimizer, network(), 4, reconnect=False)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", halfway)
        checkpointer.wait_until_finished()
        params, state = checkpointer.restore(tmp_path / "state", halfway)
    for _ in range(4):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(params, whole, rtol=1e-4, atol=1e-6)


def test_batch_norms_need_their_statistics() -> None:
    params = {**network(), "norm": {"scale": jnp.ones(12)}}
    stats = {"norm": {"mean": jnp.zeros(12), "var": jnp.arange(12.0)}}
    layers = ["a", "norm", "b", "c"]
    own = lap_jax.chain(params, layers, stats)
    optimizer = prune_in_training(optax.sgd(0.1), own, [(0, 0.5)])
    state = optimizer.init(params)
    with pytest.raises(PruningError, match="batch_stats"):
        optimizer.update(params, state, params)
    _, state = optimizer.update(params, state, params, batch_stats=stats)
    wanted = lap_jax.lookahead_masks(params, layers, 0.5, batch_stats=stats)
    np.testing.assert_array_equal(masks_in(state)["a/kernel"], wanted["a"]["kernel"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "schedule is empty"),
        (([(3, 0.1), (3, 0.2)],), "rising numbers"),
        (([(-1, 0.1)],), "rising numbers"),
        (([(0, 0.5), (1, 0.4)],), "sparsity of layer 'a' falls from 0.5 to 0.4"),
        (([(0, 1.5)],), "fraction removed"),
    ],
)
def test_bad_schedules(arguments: Any, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        prune_in_training(optax.sgd(0.1), graph(), *arguments, reconnect=False)


def test_other_bad_choices() -> None:
    make = partial(prune_in_training, optax.sgd(0.1), graph(), [(0, 0.5)])
    with pytest.raises(PruningError, match="rewind goes with reconnect=False"):
        make(rewind=True)
    with pytest.raises(PruningError, match="needs a key"):
        make(method="RP")
    with pytest.raises(PruningError, match="global scope"):
        make(method="LAP-forward", scope="global")
    with pytest.raises(PruningError, match="needs the parameters"):
        make().update(network(), make().init(network()))
    with pytest.raises(PruningError, match="no layer or norm 'b"):
        make().init({"a": network()["a"]})


def test_schedules_by_closed_form() -> None:
    for step, level in cubic_schedule(0.8, 10, 110, 25, initial=0.2):
        assert level == pytest.approx(0.8 - 0.6 * (1 - (step - 10) / 100) ** 3)
    assert [step for step, _ in cubic_schedule(0.8, 0, 10, 4)] == [0, 4, 8, 10]
    left = [1 - np.asarray(level) for _, level in iterative_schedule(0.875, 3, 7)]
    assert left == pytest.approx([0.5, 0.25, 0.125])
    by_layer = iterative_schedule({"a": 0.75, "*": 0.0}, 2, 5)
    assert by_layer[-1] == (5, {"a": 0.75, "*": 0.0})
    for bad in (lambda: iterative_schedule(0.5, 0, 1), lambda: cubic_schedule(0.5, 5, 5, 1),
                lambda: cubic_schedule(0.5, 0, 5, 0)):  # fmt: skip
        with pytest.raises(PruningError):
            bad()


# ---------------------------------------------------------------- types, numbers, buffers


@pytest.mark.parametrize(
    "schedule",
    [[(1.2, 0.5), (1.7, 0.6)], [(0, 0.5), (2.0, 0.6)], [("1", 0.5)], [(None, 0.5)]],
)
def test_steps_that_are_no_whole_numbers(schedule: Any) -> None:
    with pytest.raises(PruningError, match="expected a whole number"):
        prune_in_training(optax.sgd(0.1), graph(), schedule)


def test_steps_may_be_numpys_integers() -> None:
    schedule: Any = [(np.int64(0), 0.5), (np.uint8(1), 0.6)]
    _, state = train(prune_in_training(optax.sgd(0.1), graph(), schedule), network(), 2, True)
    assert zeros(masks_in(state))["a"] == 72 - round(0.4 * 72)
    with pytest.raises(PruningError, match=r"below 2\*\*31"):
        prune_in_training(optax.sgd(0.1), graph(), [(2**31, 0.5)])


HALVES_AND_FLOATS = ["float32", "bfloat16", "float16"]


@pytest.mark.parametrize("rewind", [False, True])
@pytest.mark.parametrize("of_updates", HALVES_AND_FLOATS)
@pytest.mark.parametrize("of_params", HALVES_AND_FLOATS)
def test_updates_of_any_type_prune_and_rewind(
    of_params: str, of_updates: str, rewind: bool
) -> None:
    """A rewound weight is off by the rounding of one addition at most."""
    first, moved = network(dtype=of_params), network(1, of_params)
    optimizer = prune_in_training(
        optax.identity(), graph(), [(0, 0.5)], method="MP", reconnect=False, rewind=rewind
    )
    steps = jax.tree.map(lambda leaf: (0.1 * leaf).astype(of_updates), moved)
    updates, state = optimizer.update(steps, optimizer.init(first), moved)
    found = optax.apply_updates(moved, updates)
    chex.assert_trees_all_equal_dtypes(found, first)
    chex.assert_type(jax.tree.leaves(updates), jnp.promote_types(of_params, of_updates))
    for name in CHAIN:
        mask = np.asarray(masks_in(state)[f"{name}/kernel"])
        new, old, before = (
            np.asarray(t[name]["kernel"], np.float64) for t in (found, first, moved)
        )
        assert (new[~mask] == 0).all()
        if rewind:
            unit = float(jnp.finfo(of_params).eps) / 2
            bound = unit * np.maximum(np.maximum(np.abs(old), np.abs(before)), np.abs(old - before))
            assert (np.abs(new - old)[mask] <= 2 * bound[mask]).all()
            np.testing.assert_array_equal(
                lap_jax.apply_masks(state.start, masks_in(state))[name]["kernel"],
                np.where(mask, first[name]["kernel"], 0),
            )


@pytest.mark.parametrize("rewind", [False, True])
def test_the_state_may_be_donated(rewind: bool) -> None:
    optimizer = prune_in_training(
        optax.adam(0.1), graph(), [(0, 0.5), (1, 0.6)], method="MP", reconnect=False, rewind=rewind
    )
    own = network()
    params, state = jax.tree.map(jnp.copy, own), optimizer.init(own)
    step = jax.jit(lambda p, s: optimizer.update(p, s, p), donate_argnums=(0, 1))
    given = state.masks["a/kernel"]
    for _ in range(2):
        updates, state = step(jax.tree.map(jnp.copy, params), state)
        params = optax.apply_updates(params, updates)
    assert given.is_deleted()
    assert not own["a"]["kernel"].is_deleted()


def test_an_average_of_pruned_weights_is_masked_by_hand() -> None:
    inner = optax.contrib.schedule_free_adamw(0.05)
    optimizer = prune_in_training(inner, graph(), [(2, 0.5)], method="MP", reconnect=False)
    params, state = train(optimizer, network(), 4, reconnect=False)
    average = optax.contrib.schedule_free_eval_params(state.inner_state, params)
    gone = ~masks_in(state)["a/kernel"]
    assert (average["a"]["kernel"][gone] != 0).any()
    assert (params["a"]["kernel"][gone] == 0).all()
    masked = lap_jax.apply_masks(average, masks_in(state))
    assert (masked["a"]["kernel"][gone] == 0).all()


# ---------------------------------------------------------------- scores of one's own


def saliency(kernel: jax.Array, gradients: jax.Array) -> jax.Array:
    return jnp.abs(kernel * gradients)


def fresh_from(kernel: jax.Array, ages: jax.Array, output: jax.Array) -> jax.Array:
    return jnp.abs(kernel) * output / ages


@pytest.mark.parametrize("reconnect", [True, False])
def test_a_score_of_gradients_is_given_those_of_the_step(reconnect: bool) -> None:
    params, method = network(), lap_jax.Method(saliency, order="forward", steps=2)
    gradients = jax.grad(loss)(params)
    optimizer = prune_in_training(
        optax.sgd(0.1), graph(), [(0, 0.75)], method=method, reconnect=reconnect
    )
    _, state = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    wanted = lap_jax.lookahead_masks(
        params, graph(), 0.75, method=method, tensors={"gradients": gradients}
    )
    for path, mask in masks_in(state).items():
        name, leaf = path.split("/")
        chex.assert_trees_all_equal(mask, wanted[name][leaf])


def test_other_tensors_are_handed_to_the_update() -> None:
    params, method = network(), lap_jax.Method(fresh_from)
    ages = jax.tree.map(lambda leaf: 1 + jnp.abs(leaf[::-1]), params)
    optimizer = prune_in_training(optax.adam(0.1), graph(), [(0, 0.5)], method=method)
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params, tensors={"ages": ages})
    wanted = lap_jax.lookahead_masks(params, graph(), 0.5, method=method, tensors={"ages": ages})
    for path, mask in masks_in(state).items():
        name, leaf = path.split("/")
        chex.assert_trees_all_equal(mask, wanted[name][leaf])
    with pytest.raises(PruningError, match="takes 'ages'"):
        optimizer.update(params, state, params)
    with pytest.raises(PruningError, match="'age', which the score"):
        optimizer.update(params, state, params, tensors={"ages": ages, "age": ages})
