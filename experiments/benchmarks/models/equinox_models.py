"""Layers of Equinox, which see one example at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.models.example import Example, noise, tokens
from experiments.benchmarks.models.row import Entry


def entries() -> list[Entry]:
    """Return the rows."""
    builds = {
        "MLP": _mlp, "Conv2d": _convolutions, "MultiheadAttention": _attention, "GRUCell": _gru,
        "LSTMCell": _lstm,
    }  # fmt: skip
    return [
        Entry("equinox", name, dtype, partial(build, dtype), "equinox")
        for dtype in ("float32", "bfloat16")
        for name, build in builds.items()
    ]


def _example(modules: Any, call: Callable[..., Any], dtype: str, *inputs: jax.Array) -> Example:
    """Return a function of modules as an example, which computes in a dtype, over a batch."""
    import equinox as eqx

    arrays, rest = eqx.partition(modules, eqx.is_array)

    def function(arrays: Any, *inputs: jax.Array) -> Any:
        low = [_cast(each, dtype) for each in (arrays, *inputs)]
        modules = eqx.combine(low[0], rest)
        return jax.vmap(lambda *x: call(modules, *x))(*low[1:])

    return Example(function, arrays, inputs)


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def _keys(count: int) -> list[jax.Array]:
    return list(jax.random.split(jax.random.key(0), count))


def _mlp(dtype: str) -> Example:
    import equinox as eqx

    return _example(eqx.nn.MLP(8, 5, 12, 2, key=_keys(1)[0]), lambda m, x: m(x), dtype, noise(3, 8))


def _convolutions(dtype: str) -> Example:
    import equinox as eqx

    a, b, c = _keys(3)
    modules = {
        "first": eqx.nn.Conv2d(3, 8, 3, key=a),
        "norm": eqx.nn.GroupNorm(2, 8),
        "second": eqx.nn.Conv2d(8, 6, 3, groups=2, key=b),
        "head": eqx.nn.Linear(6 * 2 * 2, 4, key=c),
    }

    def call(m: Any, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(m["norm"](m["first"](x)))
        x = eqx.nn.MaxPool2d(2, 2)(jax.nn.relu(m["second"](x)))
        return m["head"](x.ravel())

    return _example(modules, call, dtype, noise(2, 3, 8, 8))


def _attention(dtype: str) -> Example:
    import equinox as eqx

    a, b, c, d = _keys(4)
    modules = {
        "embed": eqx.nn.Embedding(20, 8, key=a),
        "norm": eqx.nn.LayerNorm(8),
        "attention": eqx.nn.MultiheadAttention(2, 8, key=b),
        "mlp": eqx.nn.MLP(8, 8, 12, 1, key=c),
        "head": eqx.nn.Linear(8, 20, key=d),
    }

    def call(m: Any, ids: jax.Array) -> jax.Array:
        x = jax.vmap(m["embed"])(ids)
        y = jax.vmap(m["norm"])(x)
        x = x + m["attention"](y, y, y)
        x = x + jax.vmap(m["mlp"])(x)
        return jax.vmap(m["head"])(x)

    return _example(modules, call, dtype, tokens(2, 5))


def _recurrent(cell: Any, start: Callable[[], Any], last: Callable[[Any], Any], dtype: str
               ) -> Example:  # fmt: skip
    import equinox as eqx

    a, b = _keys(2)
    modules = {
        "before": eqx.nn.Linear(4, 4, key=a),
        "cell": cell,
        "head": eqx.nn.Linear(6, 3, key=b),
    }

    def call(m: Any, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(jax.vmap(m["before"])(x))
        state, _ = jax.lax.scan(
            lambda state, each: (m["cell"](each, state), None), _cast(start(), dtype), x
        )
        return m["head"](last(state))

    return _example(modules, call, dtype, noise(2, 5, 4))


def _gru(dtype: str) -> Example:
    import equinox as eqx

    cell = eqx.nn.GRUCell(4, 6, key=_keys(3)[2])
    return _recurrent(cell, lambda: jnp.zeros(6), lambda state: state, dtype)


def _lstm(dtype: str) -> Example:
    import equinox as eqx

    cell = eqx.nn.LSTMCell(4, 6, key=_keys(3)[2])
    return _recurrent(cell, lambda: (jnp.zeros(6), jnp.zeros(6)), lambda state: state[0], dtype)
