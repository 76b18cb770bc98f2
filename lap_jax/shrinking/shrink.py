"""A masked network made really smaller, by what its program says, and held against the large."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.integers import whole_number
from lap_jax.paths import checked_mask, leaves_by_path, map_by_path
from lap_jax.retraining import apply_masks
from lap_jax.shrinking.cuts import Kept, cut, kept_of
from lap_jax.shrinking.cutter import Call, Cutter, run_small
from lap_jax.shrinking.listing import is_key
from lap_jax.shrinking.plan import Plan, rule_of
from lap_jax.shrinking.rounding import woken
from lap_jax.shrinking.rules import FULL, is_half
from lap_jax.shrinking.slices import sizes
from lap_jax.shrinking.small import Small, Work
from lap_jax.shrinking.stacks import Stacks
from lap_jax.shrinking.steps import Step
from lap_jax.tracing.model import Model, as_masked_model
from lap_jax.tracing.trace import trace


def shrink(
    model: Any, variables: Any, masks: Any = None, *inputs: Any, fold: bool = True,
    unstack: bool = False, multiple_of: int = 1, tolerance: float = 1e-5, **static: Any,
) -> Small:  # fmt: skip
    """Make a masked network really smaller: leave out what is nought, or what nobody reads.

    The model's jaxpr is gone through twice, channel by channel along every axis of every value:
    forward for slices that hold one number whatever the inputs, backward for slices that what is
    returned depends on. The small program computes the slices that are needed and vary. Whatever
    layers these belong to, it gives what the masked network gives, and the call makes sure of that.

    Constants that meet a contraction become a bias. With ``fold=False`` only what training cannot
    change goes: pruned weights count as nought, all others as anything, and the small network
    trains exactly as the masked one does under `keep_pruned`.

    A primitive without a rule (a loop over time, a branch, `ragged_dot`) is computed at full size:
    right, and listed in `Small.at_full_size`. Loops over stacked layers are opened, and all
    layers of a stack keep as many neurons as the one that needs most. With ``unstack=True`` each
    keeps its own: a dictionary of layers, ``{"0": ..., "1": ...}``, is in the place of each stack,
    in variables, masks and states alike; `Small.grow` stacks them again. Of loops in loops, layers
    are dictionaries of layers. Loops over time stay loops, and their kernels leaves.

    Args:
      model: a function, or a module, as `trace` takes it.
      variables: as `trace` takes them, with values. NNX and Equinox modules hold their own:
        ``shrink(model, masks, *inputs)``.
      masks: a tree over parameters, as `apply_masks` takes it; None where pruned weights are zeros
        already.
      *inputs: examples, or `jax.ShapeDtypeStruct`: random ones are tried then.
      fold: compute constants once and for all; False to train on.
      unstack: let each layer of a stack, that a loop over a known number of layers goes over, keep
        its own slices.
      multiple_of: leave as many dead neurons as make the width of each group of neurons or channels
        a multiple, because hardware computes in blocks: of 8 on CPUs, of 128 on accelerators.
        Takes a model that `trace` reads; heads and groups that cannot be pruned stay as they are.
      tolerance: largest difference to the masked network, relative to the largest number of an
        output, in float32.
      **static: arguments that are not traced, such as ``train=False``.

    Returns:
      The small network. Of a Linen module that came with parameters alone it holds whole variables,
      ``{"params": ...}``. Its ``apply`` takes other options than these, too: ``train=True``, random
      keys, and ``mutable=[...]``, of which it returns the slices that stay.

    Raises:
      PruningError: if masks do not fit, ``fold=False`` comes without masks, variables have no
        values, the model returns new ones (batch statistics), the small network gives something
        else than the masked one, or ``multiple_of`` is no whole number above zero.

    Example:
      >>> def model(p, x):
      ...     return jax.nn.relu(x @ p["a"]) @ p["b"]
      >>> params = {"a": jnp.ones((4, 3)), "b": jnp.ones((3, 2))}
      >>> read = jnp.array([[True, True], [False, False], [True, True]])
      >>> masks = {"a": jnp.ones((4, 3), bool), "b": read}
      >>> small = shrink(model, params, masks, jnp.ones((1, 4)))
      >>> small.variables["a"].shape, small.variables["b"].shape
      ((4, 2), (2, 2))
    """
    multiple_of = whole_number("multiple_of", multiple_of, least=1)
    own, masks = as_masked_model(model, variables, masks, inputs)
    _check_values(own.variables)
    if masks is None and not fold:
        raise PruningError(
            "fold=False keeps whatever training may change, and zeros alone do not tell what is "
            "pruned: pass masks"
        )
    masked = own.variables if masks is None else apply_masks(own.variables, masks)
    fixed = None if fold else _fixed(masked, masks)
    own = own._replace(variables=masked, inputs=_examples(own.inputs))

    small, difference = _made(own, masked, fixed, static, unstack)
    if multiple_of > 1:
        graph = trace(own.function, masked, *own.inputs, **static)
        wake: dict[str, np.ndarray] = {}
        # What wakes reads by weights of its own, and what these lead from wakes too.
        while more := woken(graph, small, multiple_of, wake):
            wake = more
            seen = _with(wake, masked, fixed)
            small, difference = _made(own, *seen, static, unstack)
    return dataclasses.replace(small, difference=difference(tolerance))


def _with(wake: Mapping[str, np.ndarray], weights: Any, fixed: Any) -> tuple[Any, Any]:
    """Return weights, and which do not change, as a plan sees them that keeps some neurons more."""

    def some(path: str, leaf: Any) -> Any:
        # Nought and one are enough to tell what is nought from what is not.
        return np.where(wake[path], np.ones((), leaf.dtype), leaf) if path in wake else leaf

    if fixed is not None:
        own = (wake.get(path, np.False_) for path in leaves_by_path(weights))
        fixed = [each & ~awake for each, awake in zip(fixed, own, strict=True)]
    return map_by_path(some, weights), fixed


def _made(
    model: Model, seen: Any, fixed: list[np.ndarray] | None, static: Mapping[str, Any],
    unstack: bool,
) -> tuple[Small, Callable[[float], float]]:  # fmt: skip
    """Return a small network, and what proves it: its difference to the masked one, by tolerance.

    Args:
      model: with the masked variables, and examples.
      seen: the variables by which it is planned.
      fixed: of each leaf the entries that training does not change; None: nothing is trained.
      static, unstack: as of `shrink`.
    """
    masked, inputs = model.variables, model.inputs
    cutter, stacks = Cutter(model, seen, fixed, static), list[Stacks]()
    while unstack and (axes := cutter.stacks(cutter.call(inputs, {}).key)):
        stacks.append(level := Stacks.of(axes, model.variables))
        model, seen = level.model(model), level.unstack(seen)
        if fixed is not None:
            parts = jax.tree.unflatten(cutter.structure, fixed)
            fixed = jax.tree.leaves(level.unstack(parts))
        cutter = Cutter(model, seen, fixed, static)
    call = cutter.call(inputs, {})
    traced = cutter.plan(call.key)
    kept = kept_of(traced.plan, cutter.shapes)
    small = [cut(leaf, own) for leaf, own in zip(cutter.leaves, kept, strict=True)]

    def apply(variables: Any, *inputs: Any, **options: Any) -> Any:
        leaves = jax.tree.leaves(variables)
        _check_small(leaves, kept, cutter.paths)
        call = cutter.call(inputs, options)
        return run_small(cutter.plan(call.key, kept), leaves, kept, call.arrays)

    by_path = dict(zip(cutter.paths, kept, strict=True))
    order = list(leaves_by_path(masked))
    for level in stacks:
        order = [name for path in order for name in level.names(path)]
    found = Small(
        jax.tree.unflatten(cutter.structure, small), apply, masked,
        {path: by_path[path] for path in order}, _work(traced.plan),
        _at_full_size(traced.plan), math.nan, tuple(stacks),
    )  # fmt: skip
    return found, partial(_compared, cutter, call, small, kept)


# ---------------------------------------------------------------- what is given


def _check_values(variables: Any) -> None:
    for path, leaf in leaves_by_path(variables).items():
        if isinstance(leaf, (jax.ShapeDtypeStruct, jax.core.Tracer)):
            raise PruningError(
                f"{path!r} is {type(leaf).__name__}, which has no values: shrink looks at weights, "
                "so pass arrays, outside of jit (small.apply can be jitted)"
            )


def _check_small(leaves: Sequence[Any], kept: Sequence[Kept], paths: Sequence[str]) -> None:
    if len(leaves) != len(kept):
        raise PruningError(
            f"the small network has {len(kept)} leaves, and was given {len(leaves)}: pass "
            "small.variables, or a tree of their structure"
        )
    for leaf, own, path in zip(leaves, kept, paths, strict=True):
        if tuple(np.shape(leaf)) != own.small:
            raise PruningError(
                f"{path!r} has shape {tuple(np.shape(leaf))}, and the small network expects "
                f"{own.small}: pass small.variables, or small.slice(variables) of the large ones"
            )


def _fixed(masked: Any, masks: Any) -> list[np.ndarray]:
    """Return of each leaf the entries that are pruned."""
    by_path = {path: mask for path, mask in leaves_by_path(masks).items() if mask is not None}
    found = []
    for path, leaf in leaves_by_path(masked).items():
        mask = np.asarray(checked_mask(path, by_path[path])) if path in by_path else np.True_
        found.append(np.broadcast_to(~mask, np.shape(leaf)))
    return found


def _examples(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return inputs, random ones in place of shapes."""
    generator = np.random.default_rng(0)

    def example(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.asarray(generator.normal(size=leaf.shape), leaf.dtype)
        return jnp.asarray(generator.integers(0, 2, leaf.shape), leaf.dtype)

    return tuple(jax.tree.map(example, inputs))


# ---------------------------------------------------------------- the proof


def _compared(
    cutter: Cutter, call: Call, small: Sequence[Any], kept: Sequence[Kept], tolerance: float
) -> float:
    """Return the largest difference of the small network to the masked one."""
    traced = cutter.plan(call.key)
    wide = any(is_half(dtype) for dtype in traced.plan.listing.dtypes)

    def large(leaves: Any, arrays: Any) -> Any:
        if not wide:
            return cutter.apply(leaves, arrays, call.key)
        everything = [Kept(s, (tuple(np.ones(n, bool) for n in s),)) for s in cutter.shapes]
        return run_small(cutter.whole(call.key), leaves, everything, arrays, wide=True)

    expected = jax.tree.leaves(jax.jit(large)(cutter.leaves, call.arrays))
    found = jax.tree.leaves(
        jax.jit(lambda leaves, arrays: run_small(traced, leaves, kept, arrays, wide))(
            small, call.arrays
        )
    )
    return max(
        (
            _difference(path, np.asarray(one), np.asarray(other), tolerance)
            for path, one, other in zip(traced.paths, expected, found, strict=True)
            if not is_key(one)
        ),
        default=0.0,
    )


def _difference(path: str, masked: np.ndarray, small: np.ndarray, tolerance: float) -> float:
    if not masked.size:
        return 0.0
    numbers = [each.astype(np.complex128 if np.iscomplexobj(each) else np.float64)
               for each in (masked, small)]  # fmt: skip
    finite = np.abs(numbers[0][np.isfinite(numbers[0])])
    scale = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    with np.errstate(invalid="ignore"):
        off = np.abs(numbers[0] - numbers[1]) / scale
    off = np.where(
        (numbers[0] == numbers[1]) | (np.isnan(numbers[0]) & np.isnan(numbers[1])), 0, off
    )
    wrong = ~(off <= tolerance)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f" {path!r}" if path else ""
        raise PruningError(
            f"output{where} at {index} is {small[index]} in the small network and {masked[index]} "
            f"in the masked one ({int(wrong.sum())} of {wrong.size} differ by more than "
            f"{tolerance:g} of the largest, {scale:g}): this is an error of shrink, please report "
            "it; tolerance= allows more"
        )
    return float(off.max())


# ---------------------------------------------------------------- what there is to say


def _work(plan: Plan) -> Work:
    before = after = 0
    for step, wants in zip(plan.listing.steps, plan.wants, strict=True):
        part = plan.part(step)
        contracts = step.name in ("dot_general", "conv_general_dilated")
        if not contracts or all(facts.array is not None for facts in part.ins):
            continue
        before += _multiply_adds(step, [f.shape for f in part.ins], part.outs[0].shape)
        if wants is not None and part.keeps[0] is not None and None not in wants:
            shapes = [sizes(want) for want in wants if want is not None]
            after += _multiply_adds(step, shapes, sizes(part.keep))
    return Work(before, after)


def _multiply_adds(step: Step, ins: Sequence[Sequence[int]], out: Sequence[int]) -> int:
    """Return how many multiply-adds a contraction of these shapes takes."""
    params = step.does.params  # type: ignore[union-attr]
    if step.name == "dot_general":
        axes = params["dimension_numbers"][0][0]
        return math.prod(out) * math.prod(ins[0][axis] for axis in axes)
    axes = params["dimension_numbers"].rhs_spec[1:]
    return math.prod(out) * math.prod(ins[1][axis] for axis in axes)


def _at_full_size(plan: Plan) -> tuple[tuple[str, str], ...]:
    found = {
        (step.name, step.line): None
        for step, wants in zip(plan.listing.steps, plan.wants, strict=True)
        if wants is not None and rule_of(step) is FULL
    }
    return tuple(found)
