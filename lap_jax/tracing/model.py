"""Models as people hold them: as a function of variables and inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lap_jax.errors import PruningError
from lap_jax.paths import has_collections, is_array, leaves_by_path


class Model(NamedTuple):
    """A model, and what it is called with.

    Attributes:
      function: ``function(variables, *inputs, **static)``.
      variables: a tree of arrays; what is none is part of the function.
      inputs: examples.
    """

    function: Callable[..., Any]
    variables: Any
    inputs: tuple[Any, ...]


def as_model(apply_fn: Any, variables: Any, inputs: Sequence[Any]) -> Model:
    """Return a model from whatever stands for one.

    Args:
      apply_fn: a function, or a module of Linen, NNX or Equinox.
      variables: what `trace` takes. NNX and Equinox modules hold their own: then this is the first
        input.
      inputs: the others.

    Raises:
      PruningError: if the variables are not those of the module.
    """
    inputs = tuple(inputs)
    if hasattr(variables, "opt_state") and hasattr(variables, "params"):  # a training state
        stats = getattr(variables, "batch_stats", None)
        held = {} if stats is None else {"batch_stats": stats}
        params = variables.params
        variables = {**params, **held} if has_collections(params) else {"params": params, **held}
    if _is_module(apply_fn, "flax.nnx"):
        return _of_nnx(apply_fn, variables, inputs)
    if _is_module(apply_fn, "equinox"):
        if isinstance(variables, type(apply_fn)):  # filtered, perhaps: the rest is the module's own
            variables = jax.tree.map(
                lambda given, own: own if given is None else given, variables, apply_fn,
                is_leaf=lambda leaf: leaf is None,
            )  # fmt: skip
        else:
            variables, inputs = apply_fn, (variables, *inputs)
        return _without_others(lambda module, *inputs, **static: module(*inputs, **static),
                               variables, inputs)  # fmt: skip
    linen = _module_of_apply(apply_fn)
    if linen is not None:
        return _of_linen(apply_fn if linen is not apply_fn else linen.apply, variables, inputs)
    return _without_others(apply_fn, variables, inputs)


def as_masked_model(
    apply_fn: Any, variables: Any, masks: Any, inputs: Sequence[Any]
) -> tuple[Model, Any]:  # fmt: skip
    """Return a model and its masks.

    Args:
      apply_fn, variables: as of `as_model`.
      masks: over parameters, None where there are none. NNX and Equinox modules hold their own
        variables: then these are the masks, and ``masks`` is the first input.
      inputs: the others.
    """
    if not holds_variables(apply_fn) or _has_numbers(variables):
        return as_model(apply_fn, variables, inputs), masks
    first, *others = (masks, *inputs) if inputs or masks is not None else ((),)
    return as_model(apply_fn, first, others), variables


def _has_numbers(tree: Any) -> bool:
    return any(
        is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(tree)
    )


def holds_variables(model: Any) -> bool:
    """Return whether a model is a module that holds its own variables."""
    return _is_module(model, "flax.nnx") or _is_module(model, "equinox")


def _is_module(thing: Any, library: str) -> bool:
    found = sys.modules.get(library)
    return found is not None and isinstance(thing, found.Module)


def _module_of_apply(apply_fn: Any) -> Any | None:
    """Return the Linen module that a function applies, or that it is."""
    for thing in (apply_fn, getattr(apply_fn, "__self__", None)):
        if _is_module(thing, "flax.linen"):
            return thing
    return None


def _of_linen(apply: Callable[..., Any], variables: Any, inputs: tuple[Any, ...]) -> Model:
    if isinstance(variables, Mapping) and "params" not in variables:
        variables = {"params": variables}
    errors = sys.modules.get("flax.errors")

    def function(variables: Any, *inputs: Any, **static: Any) -> Any:
        try:
            return apply(variables, *inputs, **static)
        except Exception as error:
            kinds = ("ScopeCollectionNotFound", "ScopeVariableNotFoundError")
            if errors is None or not isinstance(error, tuple(getattr(errors, k) for k in kinds)):
                raise
            raise PruningError(
                f"the variables hold the collections {sorted(variables)}, and the model wants "
                f"more: pass all that model.init returned, with 'batch_stats' ({error})"
            ) from error

    return Model(function, variables, inputs)


def _of_nnx(module: Any, variables: Any, inputs: tuple[Any, ...]) -> Model:
    nnx = sys.modules["flax.nnx"]
    graphdef, whole = nnx.split(module)
    known = leaves_by_path(whole)
    given = leaves_by_path(variables) if isinstance(variables, Mapping) else {}
    if not given or not set(given) <= set(known):  # the first input, or another model's state
        if isinstance(variables, nnx.State):
            strange = next((path for path in given if path not in known), "")
            raise PruningError(
                f"the state given holds {strange!r}, which the module does not: pass "
                "nnx.state(model) of this module, or leave it out"
            )
        inputs, variables = (variables, *inputs), whole
    elif set(given) != set(known):  # parameters alone: the rest is the module's own
        variables = nnx.merge_state(whole, variables)
    return Model(
        lambda state, *inputs, **static: nnx.merge(graphdef, state)(*inputs, **static),
        variables, inputs,
    )  # fmt: skip


def _without_others(function: Callable[..., Any], variables: Any, inputs: tuple[Any, ...]) -> Model:
    """Make part of the function what is no array among the variables, such as an activation."""
    leaves, structure = jax.tree.flatten(variables)
    if all(map(is_array, leaves)):
        return Model(function, variables, inputs)
    others = [None if is_array(leaf) else leaf for leaf in leaves]
    arrays = jax.tree.unflatten(structure, [leaf if is_array(leaf) else None for leaf in leaves])

    def called(arrays: Any, *inputs: Any, **static: Any) -> Any:
        rest = iter(jax.tree.leaves(arrays))
        filled = [next(rest) if other is None else other for other in others]
        return function(jax.tree.unflatten(structure, filled), *inputs, **static)

    return Model(called, arrays, inputs)
