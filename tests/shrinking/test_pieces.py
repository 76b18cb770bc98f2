"""One place of what was put together is the piece itself."""

from typing import Any

import jax
import jax.numpy as jnp

from lap_jax.shrinking.listing import listed
from tests.shrinking.held import normal

X, W = normal(2, 3), normal(3, 3)


def names(function: Any, *leaves: Any) -> list[str]:
    program = jax.make_jaxpr(function)(*leaves, X)
    found = listed(program, len(leaves), True)
    needed, kept = set(found.outputs), list[str]()
    for step in reversed(found.steps):
        if needed & set(step.outs):
            needed |= set(step.ins)
            kept.append(step.name)
    return kept[::-1]


def test_a_layer_of_a_stack_is_not_moved() -> None:
    assert names(lambda v, w, x: x @ jnp.stack([v, w])[1], W, W) == ["dot_general"]
    assert names(lambda v, w, x: x @ jnp.stack([v, w], 1)[:, 0], W, W) == ["dot_general"]


def test_what_is_done_to_all_layers_is_done_to_the_one() -> None:
    def model(v: Any, w: Any, x: Any) -> Any:
        both = jnp.sin(jnp.stack([v, w], 1) * jnp.arange(2.0)[:, None])
        return x @ jnp.moveaxis(both, 1, 0)[1]

    found = names(model, W, W)
    assert found.count("sin") == 1
    assert "concatenate" not in found


def test_of_pieces_of_other_sizes_a_part_is_taken() -> None:
    assert "concatenate" in names(lambda v, w, x: jnp.concatenate([v, w])[1] @ x.T, W, W)


def test_stacks_are_those_that_a_loop_goes_over_layer_by_layer() -> None:
    def stacks(function: Any, *leaves: Any) -> dict[int, int]:
        return listed(jax.make_jaxpr(function)(*leaves, X), len(leaves), True).stacks

    def turned(w: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, w: (x @ w, None), x, jnp.moveaxis(2 * w, 1, 0))[0]

    assert stacks(turned, normal(3, 4, 3)) == {0: 1}

    def summed(w: Any, x: Any) -> Any:  # no leaf lies along the loop
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w.sum(0))[0]

    assert stacks(summed, normal(2, 4, 3, 3)) == {}
