"""The same results under a trace and outside, by one program, or one loop, for each shape."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from lap_jax import batching
from lap_jax.batching import LARGEST_ON_HOST, Part, for_each, is_traced, on_host, turned
from lap_jax.selection import alike
from tests.programs import Counting, equations

Calls = dict[Any, tuple[Any, tuple[Any, ...]]]


def shifted(sign: int, x: Any, rest: dict[str, Any]) -> dict[str, jax.Array]:
    """A sine stands for the work: it can be counted in a program."""
    array = x.leaf[x.place] if isinstance(x, Part) else x
    bias = rest["bias"] if rest["bias"] is not None else 0.5
    return {"work": jnp.sin(array) * sign, "total": array.sum() + bias}


def wanted(calls: Calls) -> dict[Any, Any]:
    """In NumPy float64."""
    found = {}
    for name, (sign, (x, rest)) in calls.items():
        place = tuple(map(int, x.place)) if isinstance(x, Part) else ()
        array = np.asarray(x.leaf[place] if isinstance(x, Part) else x, np.float64)
        bias = 0.5 if rest["bias"] is None else float(rest["bias"])
        found[name] = {"work": np.sin(array) * sign, "total": array.sum() + bias}
    return found


def some(count: int = 3) -> Calls:
    """Calls of two shapes, two settings, with and without an operand; names of any kind."""
    rng = np.random.default_rng(0)
    calls: Calls = {}
    for i in range(count):
        for shape in ((3, 5), (7,)):
            for sign in (1, -1):
                for bias in (None, jnp.float32(i)):
                    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
                    calls[i, shape, sign, bias is None] = (sign, (x, {"bias": bias}))
    return calls


def stacked(count: int) -> Calls:
    """Calls of the parts of one leaf."""
    leaf = jnp.asarray(np.random.default_rng(1).normal(size=(count, 6, 4)), jnp.float32)
    return {i: (1, (Part(leaf, (np.int32(i),)), {"bias": None})) for i in range(count)}


def split(calls: Calls) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """What is static of calls, and their operands."""
    return {n: how for n, (how, _) in calls.items()}, {n: own for n, (_, own) in calls.items()}


def under_jit(calls: Calls) -> Callable[[dict[Any, Any]], dict[Any, Any]]:
    how, _ = split(calls)
    names = list(calls)

    def run(operands: list[Any]) -> list[Any]:
        own = dict(zip(names, operands, strict=True))
        found = for_each(shifted, {name: (how[name], own[name]) for name in names})
        assert list(found) == names
        return list(found.values())

    return lambda operands: dict(
        zip(names, jax.jit(run)([operands[name] for name in names]), strict=True)
    )


@pytest.mark.parametrize(
    "calls", [some(), some(1), stacked(5), {}], ids=["many", "one of each", "stacked", "none"]
)
def test_results_are_those_of_each_call_alone(calls: Calls) -> None:
    outside = for_each(shifted, calls)
    assert list(outside) == list(calls)
    chex.assert_trees_all_close(outside, wanted(calls), rtol=1e-5, atol=1e-6)
    inside = under_jit(calls)(split(calls)[1])
    chex.assert_trees_all_equal_shapes_and_dtypes(inside, outside)
    chex.assert_trees_all_close(inside, outside, rtol=1e-6, atol=1e-7)


def test_vmap_goes_over_the_operands() -> None:
    calls = {i: (1, (jnp.arange(6.0) + i, {"bias": None})) for i in range(3)}

    def run(scale: jax.Array) -> dict[Any, Any]:
        scaled = {i: (how, (x * scale, rest)) for i, (how, (x, rest)) in calls.items()}
        return for_each(shifted, scaled)

    scales = jnp.array([1.0, 2.0])
    found = jax.vmap(run)(scales)
    chex.assert_tree_shape_prefix(found, (2,))
    for row, scale in enumerate(scales):
        mine = jax.tree.map(lambda leaf, row=row: leaf[row], found)
        chex.assert_trees_all_close(mine, run(scale), rtol=1e-6)


def traced(calls: Calls) -> list[Any]:
    """The equations of a program of calls, all of its arrays being arguments."""
    how, operands = split(calls)
    names = list(operands)

    def run(operands: list[Any]) -> Any:
        own = zip(names, operands, strict=True)
        return list(for_each(shifted, {name: (how[name], each) for name, each in own}).values())

    return list(equations(jax.make_jaxpr(run)([operands[name] for name in names]).jaxpr))


@pytest.mark.parametrize("count", [2, 8])
def test_under_a_trace_what_is_of_one_kind_is_written_once(count: int) -> None:
    """Two shapes, two settings, an operand or none: eight kinds."""
    assert Counter(str(each.primitive) for each in traced(some(count)))["sin"] == 8


def test_under_a_trace_a_stacked_leaf_is_looped_over_whole() -> None:
    """What is put side by side are the places, not the parts."""
    leaf = jnp.ones((16, 6, 4))
    program = [*equations(jax.make_jaxpr(lambda leaf: list(for_each(shifted, {
        i: (1, (Part(leaf, (np.int32(i),)), {"bias": None})) for i in range(16)
    }).values()))(leaf).jaxpr)]  # fmt: skip
    kinds = Counter(str(each.primitive) for each in program)
    assert kinds["sin"] == 1
    joined = [each.outvars[0].aval.size for each in program if "concat" in str(each.primitive)]
    assert max(joined, default=0) <= 16


def test_under_a_trace_what_all_calls_share_is_done_once() -> None:
    shared = jnp.arange(4.0)
    calls: Calls = {i: (1, (shared, {"bias": None})) for i in range(5)}

    def run(shared: jax.Array) -> list[Any]:
        same = {i: (how, (shared, rest)) for i, (how, (_, rest)) in calls.items()}
        return list(for_each(shifted, same).values())

    program = jax.make_jaxpr(run)(shared)
    kinds = Counter(str(each.primitive) for each in equations(program.jaxpr))
    assert kinds["sin"] == 1
    assert not {"scan", "while"} & set(kinds)


def test_outside_of_a_trace_programs_are_kept_by_shape(
    count_compilations: Counting,
) -> None:
    def calls(count: int) -> Calls:
        return {
            (i, width): (1, (jnp.ones((width, 2)), {"bias": None}))
            for i in range(count)
            for width in (41, 43)  # of no other test
        }

    few, many = calls(1), calls(8)
    with count_compilations() as first:
        for_each(shifted, few)
    with count_compilations() as later:
        for_each(shifted, many)
    assert (len(first), len(later)) == (2, 0)


# ---------------------------------------------------------------- what is traced


def test_what_is_traced() -> None:
    one, seen = jnp.ones(2), {}
    assert not is_traced({"a": one, "b": [None, 3]})
    assert not is_traced({})

    def look(x: jax.Array) -> jax.Array:
        seen["argument"], seen["closed over"] = is_traced([x]), is_traced([one])
        with jax.ensure_compile_time_eval():
            seen["seen"] = is_traced([one])
        return x

    jax.jit(look)(one)
    assert seen == {"argument": True, "closed over": True, "seen": False}
    jax.vmap(look)(one)
    assert seen["argument"]
    jax.grad(lambda x: look(x).sum())(one)
    assert seen["argument"]


@pytest.mark.parametrize("first", [1, 6, 27])
def test_a_loop_turns_as_often_either_way(first: int) -> None:
    """3n + 1: how many steps it takes to come to one."""
    wanted, n = 0, first
    while n != 1:
        n, wanted = (3 * n + 1 if n % 2 else n // 2), wanted + 1

    def turn(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        n, count = state
        return jnp.where(n % 2 == 1, 3 * n + 1, n // 2), count + 1

    start = (jnp.int32(first), jnp.int32(0))
    for under_trace in (False, True):
        found = turned(lambda state: state[0] != 1, turn, start, under_trace)
        assert (int(found[0]), int(found[1])) == (1, wanted)


# ---------------------------------------------------------------- twins in NumPy


def halved(_: None, x: Any) -> jax.Array:
    return (x.leaf[x.place] if isinstance(x, Part) else x) / 2


def test_a_twin_takes_what_it_can_tell_and_the_program_the_rest() -> None:
    def twin(_: None, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
        asked.append(x.shape)
        return x / 4 if x.ndim == 1 else None

    x = jnp.arange(6.0).reshape(2, 3)
    calls: Calls = {"part": (None, (Part(x, (np.int32(1),)),)), "whole": (None, (x,))}
    asked: list[tuple[int, ...]] = []
    found = for_each(halved, calls, twin)
    assert asked == [(3,), (2, 3)]
    np.testing.assert_array_equal(found["part"], x[1] / 4)
    np.testing.assert_array_equal(found["whole"], x / 2)
    assert all(isinstance(each, jax.Array) for each in found.values())
    traced = jax.jit(lambda x: for_each(halved, {"x": (None, (x,))}, twin))(x[0])
    np.testing.assert_array_equal(traced["x"], x[0] / 2)
    assert len(asked) == 2


def test_large_and_spread_arrays_and_those_of_other_devices_are_not_on_the_host() -> None:
    x = jnp.ones((4, 2))
    assert on_host((x, None, 3, Part(x, (0,))))
    large = jnp.zeros((2, LARGEST_ON_HOST), bool)
    assert not on_host(large)
    assert on_host(Part(large, (0,)))
    assert not on_host(jax.device_put(x, jax.devices()[1]))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), "d")
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    assert not on_host(jax.device_put(x, spread))


@pytest.mark.parametrize("method", ["MP", "LAP", "LAP-backward-seq"])
def test_masks_are_the_same_by_programs_and_by_numpy(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32)},
        "dense": {"kernel": jnp.asarray(rng.normal(size=(4, 7)).round(1), jnp.float32)},
        "tiny": {"kernel": jnp.asarray(1e-38 * rng.normal(size=(7, 5)), jnp.float32)},
    }
    graph = lap_jax.chain(params, list(params))
    masks = lap_jax.lookahead_masks(params, graph, 0.6, method=method)
    for module in (batching, alike):
        monkeypatch.setattr(module, "on_host", lambda operands: False)
    chex.assert_trees_all_equal(masks, lap_jax.lookahead_masks(params, graph, 0.6, method=method))
