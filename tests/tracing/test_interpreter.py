"""Reading a jaxpr: what is called, what a loop is made of, and what an equation computes."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import JaxprEqn

from lap_jax.tracing.interpreter import Interpreter, evaluate, loop_of, programs, read


def equations(function: Any, *inputs: Any) -> list[JaxprEqn]:
    return list(jax.make_jaxpr(function)(*inputs).jaxpr.eqns)


def double(h: jax.Array) -> jax.Array:
    return 2 * jnp.sin(h)


CALLS: dict[str, Any] = {
    "jit": jax.jit(double),
    "remat": jax.checkpoint(double),
    "custom_jvp": jax.custom_jvp(double),
    "custom_vjp": jax.custom_vjp(double),
    "cond": lambda h: lax.cond(h[0] > 0, double, jnp.cos, h),
    "scan": lambda h: lax.scan(lambda h, _: (double(h), None), h, None, 3)[0],
    "plain": double,
}
CALLS["custom_jvp"].defjvp(lambda x, dx: (double(*x), dx[0]))
CALLS["custom_vjp"].defvjp(lambda x: (double(x), None), lambda _, d: (d,))


@pytest.mark.parametrize("case", CALLS)
def test_reading_by_computing_gives_what_the_function_gives(case: str) -> None:
    met: list[str] = []

    def equation(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        met.append(eqn.primitive.name)
        return evaluate(eqn, values)

    def whole(eqn: JaxprEqn, values: list[Any], _: Any) -> list[Any]:
        return equation(eqn, values)

    interpreter = Interpreter(
        literal=lambda value: value,
        equation=equation,
        call=lambda eqn, values, run: run(values),
        branches=whole,
        loop=whole,
        calls=[],
    )
    x = jnp.arange(3.0)
    (found,) = read(interpreter, jax.make_jaxpr(CALLS[case])(x), [x])
    chex.assert_trees_all_close(found, CALLS[case](x), rtol=1e-6)
    assert ("sin" in met) == (case not in ("cond", "scan"))  # calls are gone into


@pytest.mark.parametrize("case", ["custom_jvp", "custom_vjp"])
def test_an_equation_has_its_own_derivative(case: str) -> None:
    x = jnp.arange(3.0)
    (eqn,) = equations(CALLS[case], x)
    slope = jax.grad(lambda x: evaluate(eqn, [x])[0].sum())(x)
    chex.assert_trees_all_equal(slope, jnp.ones(3))


def test_the_programs_in_an_equation() -> None:
    x = jnp.arange(3.0)
    counts = {case: [len(programs(eqn)) for eqn in equations(CALLS[case], x)] for case in CALLS}
    assert counts["plain"] == [0, 0]
    assert max(counts["cond"]) == 2
    assert all(max(counts[case]) == 1 for case in CALLS if case not in ("plain", "cond"))
    (loop,) = equations(lambda h: lax.while_loop(lambda h: h[0] < 3, double, h), x)
    assert programs(loop) == []


def test_a_loop_is_told_by_its_shapes() -> None:
    def function(c: jax.Array, h: jax.Array, xs: jax.Array) -> Any:
        return lax.scan(lambda h, x: ((h[0] * c, h[1] + x.sum()), h[0] + x), (h, 0.0), xs)

    (eqn,) = (
        eqn
        for eqn in equations(function, jnp.ones(3), jnp.ones(3), jnp.ones((5, 3)))
        if eqn.primitive.name == "scan"
    )
    loop = loop_of(eqn)
    assert (loop.consts, loop.carry) == (1, 2)
    assert len(loop.body.invars) == 4
