"""One program per shape: the same function over the arrays of many layers.

Compile time is what grows with a network's depth where every layer is written out. Concrete arrays
go, layer by layer, to one compiled program per function, layout, shape, dtype and sharding, which
JAX keeps; small ones in the memory of the host to a twin of the function in NumPy, where there is
one, because compiling takes longer than all of its work. Under a trace there is only the program of
whoever traces: there layers of one shape are stacked and go through a loop, whose body is written
once. On a mesh only layers that are stacked already are looped over: arrays that lie in different
ways must not meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Function = Callable[..., Any]
LARGEST_ON_HOST = 2**20
"""Entries of an array beyond which a program is worth its compiling."""


class Part(NamedTuple):
    """A part of an array, which is cut out where it is needed.

    Attributes:
      leaf: the array.
      place: indices into its first axes; numbers or scalars.
    """

    leaf: jax.Array
    place: tuple[Any, ...] = ()


def for_each(
    function: Function,
    calls: Mapping[Any, tuple[Hashable, tuple[Any, ...]]],
    twin: Function | None = None,
) -> dict[Any, Any]:
    """Return ``{name: function(static, *operands)}`` for ``{name: (static, operands)}``.

    Args:
      function: pure, of hashable settings and of trees of arrays, in which a `Part` is one array.
        One object for all calls of the process, because programs are kept by it.
      calls: settings and operands by name. Those of equal settings, shapes and dtypes share code.
      twin: the same in NumPy, to the bit; it gives None where it cannot tell.
    """
    if not is_traced([operands for _, operands in calls.values()]):
        known = {} if twin is None else _by_twin(twin, calls)
        return {name: known[name] if name in known else _run(function, static, *operands)
                for name, (static, operands) in calls.items()}  # fmt: skip
    groups: dict[Hashable, list[Any]] = {}
    for name, (static, operands) in calls.items():
        groups.setdefault((static, _kind(operands)), []).append(name)
    found: dict[Any, Any] = {}
    for (static, _), names in groups.items():  # type: ignore[misc]
        results = _looped(partial(function, static), [calls[name][1] for name in names])
        found |= zip(names, results, strict=True)
    return {name: found[name] for name in calls}


def is_traced(tree: Any) -> bool:
    """Return whether what is computed from a tree of arrays is being traced, and not to be seen."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
        return True
    # Inside of `jax.jit` whatever is computed is traced, concrete arrays or not.
    return isinstance(lax.neg(np.int32(0)), jax.core.Tracer)


def turned(
    while_true: Callable[[Any], Any], body: Callable[[Any], Any], state: Any, traced: bool
) -> Any:
    """Run a loop: under a trace `lax.while_loop`, else step by step, each of compiled programs."""
    if traced:
        return lax.while_loop(while_true, body, state)
    while bool(while_true(state)):
        state = body(state)
    return state


def on_host(operands: Any) -> bool:
    """Return whether arrays are small and lie in the host's memory, where new ones would lie.

    Args:
      operands: a tree of arrays and parts, none of them traced.
    """
    here = jax.config.jax_default_device  # type: ignore[attr-defined]
    here = here or jax.local_devices()[0]
    if getattr(here, "platform", "") != "cpu":
        return False
    for leaf in jax.tree.leaves(operands, is_leaf=_is_part):
        part = leaf if _is_part(leaf) else Part(leaf)
        if math.prod(np.shape(part.leaf)[len(part.place) :]) > LARGEST_ON_HOST:
            return False
        if isinstance(part.leaf, jax.Array) and part.leaf.sharding.device_set != {here}:
            return False
    return True


def as_numpy(operands: Any) -> Any:
    """Return a tree of arrays and parts as NumPy arrays; random keys stay what they are."""

    def seen(leaf: Any) -> Any:
        if _is_part(leaf):
            return np.asarray(leaf.leaf)[leaf.place]
        is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.extended)
        return leaf if is_key else np.asarray(leaf)

    return jax.tree.map(seen, operands, is_leaf=_is_part)


def _is_part(node: Any) -> bool:
    return isinstance(node, Part)


def _by_twin(
    twin: Function, calls: Mapping[Any, tuple[Hashable, tuple[Any, ...]]]
) -> dict[Any, Any]:
    """Return the results that a twin in NumPy can tell, put back all at once, which is quicker."""
    found = {name: twin(static, *as_numpy(operands))
             for name, (static, operands) in calls.items() if on_host(operands)}  # fmt: skip
    known: dict[Any, Any] = jax.device_put({k: v for k, v in found.items() if v is not None})
    return known


@partial(jax.jit, static_argnums=(0, 1))
def _run(function: Function, static: Hashable, *operands: Any) -> Any:
    return function(static, *operands)


def _kind(operands: tuple[Any, ...]) -> Hashable:
    """Return what operands must have in common to go through one loop.

    Parts of one leaf go together, which is then looped over as it is. Over several devices arrays
    of their own do not: two may lie in different ways, which a trace does not tell, and stacking
    them would send one of them across.
    """

    def kind(leaf: Any) -> Hashable:
        if isinstance(leaf, Part):
            alone = bool(leaf.place) or _over_devices(leaf.leaf)
            return (jax.typeof(leaf.leaf), len(leaf.place), alone and id(leaf.leaf))
        return (jax.typeof(leaf), jnp.ndim(leaf) > 1 and _over_devices(leaf) and id(leaf))

    leaves, structure = jax.tree.flatten(operands, is_leaf=_is_part)
    return (structure, tuple(map(kind, leaves)))


def _over_devices(array: Any) -> bool:
    """Return whether a traced array is part of a program for several devices."""
    return bool(jax.typeof(array).sharding.mesh.size > 1)


def _looped(function: Function, calls: list[tuple[Any, ...]]) -> list[Any]:
    """Return the results of calls of one kind; several go through a loop."""
    if len(calls) == 1:
        return [function(*calls[0])]
    structure = jax.tree.structure(calls[0])
    columns = list(zip(*map(jax.tree.leaves, calls), strict=True))
    same = [all(each is column[0] for each in column) for column in columns]
    if all(same):
        return [function(*calls[0])] * len(calls)
    moving = [jnp.stack(column) for column, fixed in zip(columns, same, strict=True) if not fixed]

    def body(own: list[jax.Array]) -> Any:
        rest = iter(own)
        leaves = [column[0] if fixed else next(rest)
                  for column, fixed in zip(columns, same, strict=True)]  # fmt: skip
        return function(*jax.tree.unflatten(structure, leaves))

    results = lax.map(body, moving)
    return [jax.tree.map(lambda stacked, i=i: stacked[i], results) for i in range(len(calls))]
