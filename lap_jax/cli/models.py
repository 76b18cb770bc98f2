"""A model by its name, ``module:function``, and a checkpoint's arrays in its variables."""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.cli.checkpoints import Checkpoint
from lap_jax.cli.errors import BadInput

EXPECTED = (
    "expected (model, inputs), or {'model': ..., 'inputs': ..., 'variables': ..., 'options': ...}"
)


class Given(NamedTuple):
    """What a function that stands for a model returned.

    Attributes:
      model: a module of Linen, NNX or Equinox, or a function of variables and inputs.
      inputs: examples.
      variables: as the model takes them; their shapes are enough.
      options: arguments that are not traced, such as ``train=False``.
    """

    model: Any
    inputs: tuple[Any, ...]
    variables: Any
    options: dict[str, Any]


class Filled(NamedTuple):
    """A model's variables with the values of a checkpoint.

    Attributes:
      variables: as the model takes them.
      names: by path in the variables, the array's name in the checkpoint; without the leaves that
        it does not hold (counters and random keys), which are the model's own.
      others: names of arrays that are not the model's, such as moments of an optimizer.
    """

    variables: Any
    names: dict[str, str]
    others: tuple[str, ...]


def given(name: str) -> Given:
    """Import ``module:function`` from here or from what is installed, and call the function.

    Raises:
      BadInput: if there is none, it raises, or it returns something else.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise BadInput(f"--model is {name!r}: expected module:function, such as networks:resnet")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
        told = found()
    except Exception as error:
        text = " ".join(str(error).split())
        raise BadInput(f"--model {name}: {type(error).__name__}: {text}") from error
    finally:
        sys.path.remove(os.getcwd())
    return _checked(name, told)


def _checked(name: str, told: Any) -> Given:
    if isinstance(told, Sequence) and len(told) == 2 and not isinstance(told, str):
        told = {"model": told[0], "inputs": told[1]}
    if not isinstance(told, Mapping) or not {"model", "inputs"} <= set(told):
        raise BadInput(f"--model {name} returned {type(told).__name__}: {EXPECTED}")
    unknown = set(told) - {"model", "inputs", "variables", "options"}
    if unknown:
        raise BadInput(f"--model {name} returned {', '.join(sorted(unknown))}, too: {EXPECTED}")
    model, inputs, options = told["model"], told["inputs"], dict(told.get("options") or {})
    inputs = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    variables = told.get("variables")
    if variables is None:
        try:
            variables = _variables(model, inputs, options)
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            raise BadInput(f"--model {name}: its variables: {text}") from error
    if variables is None:
        raise BadInput(
            f"--model {name}: a function's variables are not known: return {{'model': ..., "
            "'inputs': ..., 'variables': ...}; shapes are enough (jax.eval_shape)"
        )
    return Given(model, inputs, variables, options)


def _variables(model: Any, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    """Return a module's variables, of a Linen module their shapes; None for a function."""
    for thing in (model, getattr(model, "__self__", None)):
        if _is_module(thing, "flax.linen"):
            init: Any = functools.partial(thing.init, **options)
            return jax.eval_shape(lambda key, init=init: init(key, *inputs), jax.random.key(0))
    if _is_module(model, "flax.nnx"):
        return sys.modules["flax.nnx"].state(model)
    return model if _is_module(model, "equinox") else None


def _is_module(thing: Any, library: str) -> TypeGuard[Any]:
    found = sys.modules.get(library)
    return found is not None and isinstance(thing, found.Module)


def paths_of(tree: Any) -> dict[str, Any]:
    """Return the arrays of a model's variables by path, without NNX's ``value``."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_path(path): leaf for path, leaf in paths if hasattr(leaf, "shape")}


def map_paths(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Return a tree of the same structure with ``function(path, array)`` at each array."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    found = [
        function(_path(path), leaf) if hasattr(leaf, "shape") else leaf for path, leaf in paths
    ]
    return jax.tree.unflatten(structure, found)


def _path(path: Any) -> str:
    last = path[-1] if path else None
    if isinstance(last, jax.tree_util.GetAttrKey) and last.name == "value":
        path = path[:-1]
    return str(jax.tree_util.keystr(path, simple=True, separator="/"))


def without_collection(path: str) -> str:
    """Return the path of a leaf in its own collection of Linen's variables."""
    return path.partition("/")[2] or path


def filled(template: Any, checkpoint: Checkpoint) -> Filled:
    """Put a checkpoint's arrays in a model's variables, by name.

    Names may be joined by slashes or dots, begin with ``params`` or without, lie in a training
    state (under ``params`` or any other name) and end in NNX's ``value``.

    Raises:
      BadInput: if one that the model needs is missing, or has another shape.
    """
    known: dict[str, str] = {}
    for name in checkpoint.arrays:
        known.setdefault(plain_name(name), name)
    leaves = paths_of(template)
    found, missing = _names(leaves, known, isinstance(template, Mapping) and "params" in template)
    if missing:
        close = difflib.get_close_matches(missing[0], known, 1, 0.3)
        hint = f" (there is {known[close[0]]!r})" if close else ""
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(
            f"{str(checkpoint.path)!r} holds no {missing[0]!r}{more}, which the model needs{hint}: "
            "expected a checkpoint of the model that --model names"
        )
    for path, name in found.items():
        expected, shape = tuple(leaves[path].shape), checkpoint.arrays[name].shape
        if shape != expected and not _is_key(leaves[path]):
            raise BadInput(
                f"{name!r} in {str(checkpoint.path)!r} has shape {shape}, and the model expects "
                f"{expected}: expected a checkpoint of the model that --model names"
            )
    found = {path: name for path, name in found.items() if not _is_key(leaves[path])}

    def value(path: str, leaf: Any) -> Any:
        if path in found:
            return jnp.asarray(checkpoint.arrays[found[path]])
        if isinstance(leaf, jax.ShapeDtypeStruct):  # a counter of Linen, that was not saved
            return jnp.zeros(leaf.shape, leaf.dtype)
        return leaf

    used = set(found.values())
    others = tuple(name for name in checkpoint.arrays if name not in used)
    return Filled(map_paths(value, template), found, others)


def _names(
    leaves: Mapping[str, Any], known: Mapping[str, str], collections: bool
) -> tuple[dict[str, str], list[str]]:
    """Return names by path in the best of the ways there are, and the paths that it lacks."""
    needed = [path for path, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    ways: list[tuple[dict[str, str], list[str]]] = []
    for short in (False, True) if collections else (False,):
        own = {path: without_collection(path) if short else path for path in leaves}
        if len(set(own.values())) < len(own):
            continue
        ends = [f"/{own[path]}" for path in needed[:1]]
        inside = {name[: -len(end)] + "/" for end in ends for name in known if name.endswith(end)}
        # Moments of an optimizer have the names of its parameters: they come last.
        nearest = sorted(inside, key=lambda each: ("opt_state" in each, len(each), each))
        for prefix in ("", *nearest):
            names = {path: known[prefix + end] for path, end in own.items()
                     if prefix + end in known}  # fmt: skip
            missing = [prefix + own[path] for path in needed if path not in names]
            if not missing:
                return names, []
            ways.append((names, missing))
    return min(ways, key=lambda way: len(way[1]))


def plain_name(name: str) -> str:
    """Return a name as paths are written: slashes for dots, without a last ``value``."""
    return name.replace(".", "/").removesuffix("/value")


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def pruned_arrays(
    checkpoint: Checkpoint, names: Mapping[str, str], masks: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the model's arrays under the checkpoint's names, zero where a mask is False."""
    found = {}
    for path, name in names.items():
        array, mask = checkpoint.arrays[name], np.asarray(masks.get(path, True))
        found[name] = np.where(mask, array, np.zeros((), array.dtype))
    return found
