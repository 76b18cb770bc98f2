"""The choices that make a method: by the paper's names, put together, and scores of one's own."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lap_jax import (
    METHODS,
    Edge,
    Graph,
    Layer,
    Method,
    Scope,
    chain,
    lookahead_masks,
    lookahead_scores,
    masks_from_scores,
    masks_in,
    prune_in_training,
)
from tests import oracle
from tests.networks import EQUAL, assert_masks, kernels, mlp, refused, stack

NAMES = list(mlp())


def test_the_methods_are_the_papers_nine() -> None:
    deterministic = list(oracle.METHODS)
    assert list(METHODS) == ["MP", "RP", "LFP", "LBP", *deterministic[3:]]
    for name, method in oracle.METHODS.items():
        found = METHODS[name]
        assert (found.score, found.order, found.steps) == (method.score, method.order, method.steps)
        if method.score == "lookahead":
            assert found.direction == method.direction
    assert METHODS["RP"].score == "random"


def test_unknown_method_with_the_known_ones() -> None:
    with refused("'LAPP'", "'LAP'"):
        lookahead_masks(mlp(), NAMES, 0.5, method="LAPP")  # type: ignore[arg-type]
    with refused("'lap'", "'LAP'"):
        lookahead_scores(mlp(), NAMES, method="lap")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "found"),
    [
        (Method("l2"), "l2"),  # type: ignore[arg-type]
        (Method("lookahead", "up"), "up"),  # type: ignore[arg-type]
        (Method("lookahead", "both", "sideways"), "sideways"),  # type: ignore[arg-type]
        (Method("lookahead", "both", None, 0), "0"),
    ],
)
def test_method_of_unknown_parts(method: Method, found: str) -> None:
    with refused(found):
        lookahead_masks(mlp(), NAMES, 0.5, method=method)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_steps_are_a_positive_whole_number(steps: Any) -> None:
    with refused("steps", str(steps)):
        lookahead_masks(mlp(), NAMES, 0.5, method="LAP-forward-seq", steps=steps)


@pytest.mark.parametrize("call", [lookahead_masks, lookahead_scores])
def test_random_pruning_without_a_key(call: Any) -> None:
    arguments = (0.5,) if call is lookahead_masks else ()
    with refused("random", "key=jax.random.key"):
        call(mlp(), NAMES, *arguments, method="RP")


@pytest.mark.parametrize("name", ["LAP-forward", "LAP-backward", "LAP-forward-seq"])
def test_scores_of_ordered_methods_depend_on_masks_and_are_refused(name: Any) -> None:
    with refused(name):
        lookahead_scores(mlp(), NAMES, method=name)


# ---------------------------------------------------------------- scores of one's own

PARAMS, GRADIENTS = mlp(0, EQUAL), mlp(1, EQUAL)


def product(kernel: jax.Array, input: jax.Array, output: jax.Array) -> jax.Array:
    """Eq. 5 once more."""
    return jnp.abs(kernel) * input * output


def taylor(kernel: jax.Array, gradients: jax.Array) -> jax.Array:
    return jnp.abs(kernel * gradients)


def mixed(kernel: jax.Array, output: jax.Array, gradients: jax.Array | None = None) -> jax.Array:
    """What may be given need not."""
    base = jnp.abs(kernel) * output
    return base if gradients is None else base + jnp.abs(gradients)


TAYLOR: dict[str, Any] = {"method": Method(taylor), "tensors": {"gradients": GRADIENTS}}
WANTED = {name: np.abs(PARAMS[name]["kernel"] * GRADIENTS[name]["kernel"]) for name in PARAMS}


@pytest.mark.parametrize("direction", ["both", "forward", "backward"])
@pytest.mark.parametrize(("order", "steps"), [(None, 1), ("forward", 1), ("backward", 3)])
def test_a_score_written_again_gives_the_same_masks(direction: Any, order: Any, steps: int) -> None:
    own, named = (Method(score, direction, order, steps) for score in (product, "lookahead"))
    found, wanted = (lookahead_masks(PARAMS, list(PARAMS), 0.7, method=m) for m in (own, named))
    chex.assert_trees_all_equal(found, wanted)


def test_scores_of_gradients_are_what_the_function_says() -> None:
    found = lookahead_scores(PARAMS, list(PARAMS), **TAYLOR)
    chex.assert_trees_all_close(found, WANTED, rtol=1e-6)
    ahead = lookahead_scores(PARAMS, list(PARAMS), method="LFP")
    plain = lookahead_scores(PARAMS, list(PARAMS), method=Method(mixed))
    chex.assert_trees_all_close(plain, ahead, rtol=1e-6)
    both = lookahead_scores(PARAMS, list(PARAMS), **TAYLOR | {"method": Method(mixed)})
    wanted = {name: ahead[name] + np.abs(GRADIENTS[name]["kernel"]) for name in PARAMS}
    chex.assert_trees_all_close(both, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "scope",
    [Scope(), Scope("global"), Scope("global", "none"), Scope(unit="channel", outputs=True),
     Scope(unit=(2, 2)), Scope(group=(2, 4))],
    ids=["layer", "global", "as they are", "channel", "block", "group"],
)  # fmt: skip
def test_own_scores_go_with_every_scope_and_in_steps(scope: Scope) -> None:
    """Scores that look at no neighbour are the same in each step."""
    wanted = masks_from_scores(WANTED, 0.5, scope=scope)
    for steps in (1, 3):
        found = lookahead_masks(PARAMS, list(PARAMS), 0.5, scope=scope, steps=steps, **TAYLOR)
        assert_masks(found, [wanted[name] for name in PARAMS], PARAMS)


@pytest.mark.parametrize("order", [None, "forward"])
def test_own_scores_and_their_tensors_may_be_traced(order: Any) -> None:
    def masks(params: Any, gradients: Any) -> Any:
        method = Method(mixed, order=order)
        tensors = {"gradients": gradients}
        return lookahead_masks(params, list(params), 0.6, method=method, tensors=tensors)

    chex.assert_trees_all_equal(jax.jit(masks)(PARAMS, GRADIENTS), masks(PARAMS, GRADIENTS))


def test_own_scores_under_vmap_are_those_of_each_network() -> None:
    def masks(params: Any, gradients: Any) -> Any:
        tensors = {"gradients": gradients}
        return lookahead_masks(params, list(params), 0.6, method=mixed, tensors=tensors)

    both = jax.vmap(masks)(stack([PARAMS, GRADIENTS]), stack([GRADIENTS, PARAMS]))
    alone = stack([masks(PARAMS, GRADIENTS), masks(GRADIENTS, PARAMS)])
    assert_masks(both, kernels(alone, PARAMS), PARAMS)


def test_own_scores_of_tied_weights_add_up_in_squares() -> None:
    """The tensor is turned as the weights are; a neighbour sees each reading by itself."""
    params, gradients = {"w": PARAMS["Dense_0"]["kernel"]}, {"w": GRADIENTS["Dense_0"]["kernel"]}
    rows, columns = params["w"].shape
    first = Layer("w", "w", (rows, columns))
    back = Layer("back", "w", (columns, rows), split=(rows, columns), order=(1, 0), tied_to="w")
    graph = Graph((first, back), (Edge("w", "back"),))
    method = Method(lambda kernel, gradients, output: jnp.abs(kernel * gradients) * output)
    settings: dict[str, Any] = {"method": method, "tensors": {"gradients": gradients}}
    found = lookahead_scores(params, graph, **settings)
    own = np.abs(params["w"].astype(np.float64) * gradients["w"])
    ahead = np.linalg.norm(params["w"].astype(np.float64), axis=0)  # after `back` comes nothing
    wanted = own * np.sqrt(ahead**2 + 1)
    chex.assert_trees_all_close(found, {"w": wanted}, rtol=1e-6)
    masks = lookahead_masks(params, graph, 0.5, **settings)
    chex.assert_trees_all_equal(masks["w"], oracle.keep_best(wanted, 32))


def test_a_key_is_each_layers_own() -> None:
    def noisy(kernel: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, kernel.shape)

    found, wanted = (
        lookahead_masks(PARAMS, list(PARAMS), 0.5, method=method, key=jax.random.key(2))
        for method in (Method(noisy), "RP")
    )
    chex.assert_trees_all_equal(found, wanted)
    with refused("needs a key"):
        lookahead_masks(PARAMS, list(PARAMS), 0.5, method=Method(noisy))


@pytest.mark.parametrize(("order", "reconnect"), [(None, True), ("backward", False)])
def test_own_scores_prune_in_training(order: Any, reconnect: bool) -> None:
    method = Method(product, "forward", order)
    graph = chain(PARAMS, list(PARAMS))
    optimizer = prune_in_training(
        optax.sgd(0.1), graph, [(0, 0.4), (1, 0.7)], method=method, reconnect=reconnect
    )
    params = jax.tree.map(jnp.asarray, PARAMS)
    state, masks = optimizer.init(params), None
    update = jax.jit(optimizer.update)
    for sparsity in (0.4, 0.7):
        before = None if reconnect else masks
        masks = lookahead_masks(params, graph, sparsity, method=method, masks=before)
        updates, state = update(GRADIENTS, state, params)
        params = optax.apply_updates(params, updates)
        found = {name: {"kernel": masks_in(state)[f"{name}/kernel"]} for name in PARAMS}
        assert_masks(found, kernels(masks, PARAMS), PARAMS)


def test_tensors_that_a_score_does_not_take_or_does_not_have() -> None:
    for call in (lookahead_scores, partial(lookahead_masks, sparsity=0.5)):
        run: Any = partial(call, PARAMS, list(PARAMS))
        with refused("'taylor' takes 'gradients'", "tensors={'gradients': tree}"):
            run(method=Method(taylor))
        with refused("tensors hold 'grads'", "'taylor' does not take", "it takes 'gradients'"):
            run(method=Method(taylor), tensors={"grads": GRADIENTS})
        with refused("tensors hold 'input'", "'product' does not take", "it takes none"):
            run(method=Method(product), tensors={"input": GRADIENTS})
        with refused("'gradients' holds nothing at 'Dense_1/kernel'", "(8, 8)"):
            run(method=Method(taylor), tensors={"gradients": {"Dense_0": GRADIENTS["Dense_0"]}})
        with refused("'gradients' holds shape (7, 8) at 'Dense_1/kernel'", "(8, 8)"):
            wrong = GRADIENTS | {"Dense_1": {"kernel": GRADIENTS["Dense_1"]["kernel"][1:]}}
            run(method=Method(taylor), tensors={"gradients": wrong})


@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_own_scores_that_are_no_scores_are_refused(bad: float) -> None:
    method = Method(lambda kernel: jnp.where(kernel > 0, kernel, bad))
    said = "NaN" if np.isnan(bad) else "-1"
    for call in (lookahead_scores, partial(lookahead_masks, sparsity=0.5)):
        run: Any = partial(call, PARAMS, list(PARAMS))
        with refused("the scores of 'Dense_0'", said):
            run(method=method)
