"""Primitives that move data: what they do to each kind of value, and to channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import JaxprEqn

import lap_jax
from lap_jax.tracing import views
from lap_jax.tracing.arithmetic import MOST_MIXED
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.interpreter import read
from lap_jax.tracing.movements import Movement, Step, array_moves, move
from lap_jax.tracing.moving import MOVING, moves_of
from lap_jax.tracing.primitives import PARAMETER_RULES, RULES, graph_interpreter
from lap_jax.tracing.values import FromParams, Power, Source, Traced, Value
from tests.tracing.small import brought, kernels, pairs, w

# Ways to bring four channels of a to the rows of b, and which rows channel c reaches.
MOVEMENTS = {
    "transposed": (lambda h: jnp.transpose(jnp.transpose(h)), 4, lambda c: {c}),
    "reversed": (lambda h: h[:, ::-1], 4, lambda c: {3 - c}),
    "repeated": (lambda h: jnp.repeat(h, 2, axis=1), 8, lambda c: {2 * c, 2 * c + 1}),
    "tiled": (lambda h: jnp.tile(h, (1, 2)), 8, lambda c: {c, c + 4}),
    "sliced": (lambda h: h[:, 1:3], 2, lambda c: {c - 1} if c in (1, 2) else set()),
    "every other": (lambda h: h[:, ::2], 2, lambda c: {c // 2} if c % 2 == 0 else set()),
    "padded": (lambda h: jnp.pad(h, ((0, 0), (1, 2))), 7, lambda c: {c + 1}),
    "gathered": (
        lambda h: h[:, np.array([2, 0, 2])],
        3,
        lambda c: {2: {0, 2}, 0: {1}}.get(c, set()),
    ),
    "taken": (
        lambda h: jnp.take(h, jnp.arange(3)[::-1], axis=1),
        3,
        lambda c: {2 - c} if c < 3 else set(),
    ),
    "joined": (
        lambda h: jnp.concatenate([h[:, 2:], h[:, :1]], 1),
        3,
        lambda c: {2: {0}, 3: {1}, 0: {2}}.get(c, set()),
    ),
    "shuffled": (
        lambda h: h.reshape(-1, 2, 2).swapaxes(1, 2).reshape(-1, 4),
        4,
        lambda c: {(c % 2) * 2 + c // 2},
    ),
    "rolled": (lambda h: jnp.roll(h, 1, 1), 4, lambda c: {(c + 1) % 4}),
    "stacked": (lambda h: jnp.stack([h, h[:, ::-1]], 1).reshape(-1, 8), 8, lambda c: {c, 7 - c}),
    "unstacked": (
        lambda h: jnp.concatenate(jnp.unstack(h.reshape(-1, 2, 2), axis=1)[::-1], 1),
        4,
        lambda c: {(c + 2) % 4},
    ),
    "split": (lambda h: jnp.split(h, 2, axis=1)[1], 2, lambda c: {c - 2} if c > 1 else set()),
    "outer": (
        lambda h: jnp.einsum("bc,p->bpc", h, jnp.ones(3)).reshape(-1, 12),
        12,
        lambda c: {c, c + 4, c + 8},
    ),
}


@pytest.mark.parametrize("name", MOVEMENTS)
def test_channels_follow_the_data(name: str) -> None:
    move, rows, expected = MOVEMENTS[name]
    params = kernels((5, 4), (rows, 2))
    graph = lap_jax.trace(
        lambda p, x: jax.nn.relu(move(jnp.tanh(x @ w(p, "a")))) @ w(p, "b"),
        params,
        jnp.ones((3, 5)),
    )
    assert pairs(graph, "a", "b") == {(c, row) for c in range(4) for row in expected(c)}
    assert graph.barriers == ()


@pytest.mark.parametrize("name", MOVEMENTS)
def test_traced_channels_are_those_that_the_jacobian_shows(name: str) -> None:
    move, rows, _ = MOVEMENTS[name]
    params = kernels((5, 4), (rows, 2))
    graph = lap_jax.trace(lambda p, x: move(x @ w(p, "a")) @ w(p, "b"), params, jnp.ones((3, 5)))
    jacobian = jax.jacobian(lambda h: move(h[None])[0])(jnp.ones(4))
    assert pairs(graph, "a", "b") == {(int(c), int(row)) for row, c in np.argwhere(jacobian)}


# Functions of one array of the given shape, that move its elements, by the primitive that does.
PRIMITIVES: dict[str, tuple[tuple[int, ...], Callable[[jax.Array], jax.Array]]] = {
    "transpose": ((2, 3, 4), lambda x: lax.transpose(x, (2, 0, 1))),
    "reshape": ((2, 3, 4), lambda x: lax.reshape(x, (6, 4))),
    "reshape, ragged": ((4, 6), lambda x: lax.reshape(x, (3, 8))),
    "reshape, turned": ((4, 6), lambda x: lax.reshape(x, (3, 8), (1, 0))),
    "squeeze": ((2, 1, 4), lambda x: lax.squeeze(x, (1,))),
    "broadcast_in_dim": ((3,), lambda x: lax.broadcast_in_dim(x, (2, 3, 4), (1,))),
    "rev": ((3, 4), lambda x: lax.rev(x, (0, 1))),
    "tile": ((3, 2), lambda x: jnp.tile(x, (2, 3))),
    "slice": ((5, 7), lambda x: lax.slice(x, (1, 0), (5, 6), (2, 3))),
    "split": ((6, 2), lambda x: jnp.split(x, 3, 0)[1]),
    "pad": ((3, 4), lambda x: lax.pad(x, jnp.zeros((), x.dtype), ((1, 0, 2), (-1, 2, 0)))),
    "pad, cut": ((4,), lambda x: lax.pad(x, jnp.zeros((), x.dtype), ((-1, -1, 1),))),
    "dynamic_slice": ((5, 4), lambda x: lax.dynamic_slice(x, (3, 1), (4, 2))),
    "gather, places": ((3, 5), lambda x: x[:, np.array([4, 0, 0])]),
    "gather, a table": ((5, 3), lambda x: x[np.array([[4, 0], [1, 1]])]),
    "gather, behind": ((2, 5, 3), lambda x: x[:, np.array([[4, 0], [1, 1]])]),
    "gather, fill": ((3, 5), lambda x: jnp.take(x, np.array([4, 9]), 1, mode="fill", fill_value=0)),
    "gather, clip": ((3, 5), lambda x: jnp.take(x, np.array([4, 9]), 1, mode="clip")),
    "gather, points": ((3, 5), lambda x: x[np.array([0, 2]), np.array([4, 1])]),
    "gather, one": ((3, 5), lambda x: jnp.take(x, 2, 0)),
}


def movements_in(
    function: Callable[[jax.Array], jax.Array], value: Value
) -> tuple[Value, set[str], Movement]:
    """What becomes of a value, by which primitives, and the movement that these are."""
    builder = GraphBuilder({}, frozenset())
    graph, met, found = graph_interpreter(builder), set(), list[Step]()

    def equation(eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
        if values[0].shape and not getattr(values[0], "compute", None):
            met.add(eqn.primitive.name)
            movements = moves_of(eqn, values)
            assert movements is not None
            if len(movements) == 1:
                found.extend(movements[0])
        return graph.equation(eqn, values)

    program = jax.make_jaxpr(function)(jnp.zeros(value.shape, jnp.int32))
    (result,) = read(graph._replace(equation=equation), program, [value])
    return result, met, tuple(found)


def counted(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape)


@pytest.mark.parametrize("case", PRIMITIVES)
def test_each_primitive_moves_each_kind_of_value(case: str) -> None:
    shape, function = PRIMITIVES[case]
    wanted = np.asarray(function(jnp.asarray(counted(shape) + 1)))  # what is filled in is 0

    followed, met, movement = movements_in(function, Traced(shape, (Source("a", counted(shape)),)))
    assert met == {case.partition(",")[0]}
    assert isinstance(followed, Traced)
    chex.assert_trees_all_equal(followed.sources[0].ids + 1, wanted)

    if case != "split":
        arrays = array_moves(jnp)
        chex.assert_trees_all_equal(
            np.asarray(move(arrays, jnp.asarray(counted(shape) + 1), movement)), wanted
        )

    known = FromParams(shape, (Power(views.whole("a", shape)),))
    result = movements_in(function, known)[0]
    assert isinstance(result, FromParams)
    chex.assert_trees_all_equal(result.shape, wanted.shape)
    assert result.leaves == {"a"}
    if result.kernel is not None:
        entries = views.entries(result.kernel, range(wanted.ndim))
        found = np.broadcast_to(entries, wanted.shape) + 1
        chex.assert_trees_all_equal(found.astype(np.int32), wanted)
    irregular = ("turned", "tile", "pad", "places", "table", "behind", "fill")
    assert (result.kernel is None) == any(word in case for word in irregular)


def test_an_index_from_the_data_moves_along_axes_on_which_nothing_changes() -> None:
    params = kernels((5, 4), (4, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        h, start = x @ w(p, "a"), x.astype(int)[0, 0]
        h = lax.dynamic_slice_in_dim(h, start, 2, 0) + h[x.astype(int)[:2, 0]]
        h = lax.dynamic_update_slice(jnp.zeros((9, 4)), h, (start, 0))
        return h @ w(p, "b")

    graph = lap_jax.trace(model, params, jnp.ones((3, 5)))
    assert graph.barriers == ()
    assert pairs(graph, "a", "b") == {(i, i) for i in range(4)}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dynamic_slice", lambda h, at: lax.dynamic_slice_in_dim(h, at, 2, 1)),
        ("gather", lambda h, at: h[:, jnp.stack([at, at])]),
    ],
)
def test_channels_that_the_data_choose_are_any_of_them(name: str, change: Any) -> None:
    def model(p: Any, x: jax.Array) -> jax.Array:
        return change(x @ w(p, "a"), x.astype(int)[0, 0]) @ w(p, "b")

    graph = lap_jax.trace(model, kernels((5, 4), (2, 2)), jnp.ones((3, 5)))
    assert graph.barriers == ()
    assert brought(graph, "a", "b").all()
    many = jax.eval_shape(lambda: kernels((5, MOST_MIXED + 1), (2, 2)))
    (barrier,) = lap_jax.trace(model, many, jnp.ones((3, 5))).barriers
    assert (barrier.primitive, barrier.before, barrier.after) == (name, ("a",), ("b",))
    assert "by an index from the data" in barrier.why


@pytest.mark.parametrize("rule", MOVING)
def test_every_movement_has_rules_for_activations_and_for_parameters(rule: str) -> None:
    assert rule in RULES
    assert rule in PARAMETER_RULES


SCATTERED: dict[str, Callable[[jax.Array], jax.Array]] = {
    "summed at nodes": lambda h: jax.ops.segment_sum(h, jnp.array([0, 1, 0]), 3),
    "largest at nodes": lambda h: jax.ops.segment_max(h, jnp.array([0, 1, 0]), 3),
    "written": lambda h: jnp.zeros((5, 4)).at[jnp.array([4, 2, 0])].set(h)[::2],
    "added to": lambda h: h.at[1].add(h[0]),
    "with a window": lambda h: jnp.zeros((2, 3, 4)).at[1].set(h)[1],
}


@pytest.mark.parametrize("case", SCATTERED)
def test_what_is_scattered_over_positions_keeps_its_channels(case: str) -> None:
    params = kernels((5, 4), (4, 2))
    graph = lap_jax.trace(
        lambda p, x: SCATTERED[case](x @ w(p, "a")) @ w(p, "b"), params, jnp.ones((3, 5))
    )
    assert graph.barriers == ()
    assert pairs(graph, "a", "b") == {(i, i) for i in range(4)}


def test_a_count_of_messages_passes_no_channel_on() -> None:
    params = kernels((5, 4), (4, 2))

    def model(p: Any, x: jax.Array, at: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        degree = jax.ops.segment_sum(jnp.ones(3), at, 3)
        return jax.ops.segment_sum(h * degree[:, None], at, 3) / degree[:, None] @ w(p, "b")

    graph = lap_jax.trace(model, params, jnp.ones((3, 5)), jnp.array([0, 1, 0]))
    assert graph.barriers == ()
    assert pairs(graph, "a", "b") == {(i, i) for i in range(4)}


def test_what_is_written_into_channels_is_lost() -> None:
    params = kernels((5, 4), (4, 2))
    graph = lap_jax.trace(
        lambda p, x: jnp.zeros((3, 4)).at[:, 1:3].set((x @ w(p, "a"))[:, :2]) @ w(p, "b"),
        params,
        jnp.ones((3, 5)),
    )
    (barrier,) = graph.barriers
    assert (barrier.before, barrier.after) == (("a",), ("b",))


@pytest.mark.parametrize("known", [False, True])
def test_what_is_added_where_the_data_say_may_be_anywhere(known: bool) -> None:
    params = kernels((5, 4), (6, 2))

    def model(p: Any, x: jax.Array, at: jax.Array) -> jax.Array:
        return jnp.zeros((3, 6)).at[:, np.arange(4) if known else at].add(x @ w(p, "a")) @ w(p, "b")

    graph = lap_jax.trace(model, params, jnp.ones((3, 5)), jnp.arange(4))
    assert brought(graph, "a", "b").all() == (not known)
    assert bool(graph.barriers) == known  # places that are known would be more than any place
