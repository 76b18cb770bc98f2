"""A masked network made really smaller, by what its program says, and held against the large one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.paths import checked_mask, has_collections, is_array, leaves_by_path, path_name
from lap_jax.retraining import apply_masks
from lap_jax.shrinking.contracting import CONTRACTION_RULES, multiply_adds
from lap_jax.shrinking.cuts import Kept, cut, kept_of
from lap_jax.shrinking.listing import Listing, listed
from lap_jax.shrinking.plan import Plan, planned, rule_of
from lap_jax.shrinking.program import run
from lap_jax.shrinking.rules import FULL, is_half
from lap_jax.shrinking.slices import Sets, sizes
from lap_jax.shrinking.small import Small, Work
from lap_jax.tracing.model import Model, as_model, holds_variables


def shrink(
    model: Any, variables: Any, masks: Any = None, *inputs: Any, fold: bool = True,
    tolerance: float = 1e-5, **static: Any,
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
    layers of a stack keep as many neurons as the one that needs most.

    Args:
      model: a function, or a module, as `trace` takes it.
      variables: as `trace` takes them, with values. NNX and Equinox modules hold their own:
        ``shrink(model, masks, *inputs)``.
      masks: a tree over parameters, as `apply_masks` takes it; None where pruned weights are zeros
        already.
      *inputs: examples, or `jax.ShapeDtypeStruct`: random ones are tried then.
      fold: compute constants once and for all; False to train on.
      tolerance: largest difference to the masked network, relative to the largest number of an
        output, in float32.
      **static: arguments that are not traced, such as ``train=False``.

    Returns:
      The small network. Its ``apply`` takes other options than these, too: ``train=True``, random
      keys, and ``mutable=[...]``, of which it returns the slices that stay.

    Raises:
      PruningError: if masks do not fit, ``fold=False`` comes without masks, variables have no
        values, the model returns new ones (batch statistics), or the small network gives something else than the masked one.

    Example:
      >>> params = {"a": jnp.ones((4, 3)), "b": jnp.ones((3, 2))}
      >>> masks = {"a": jnp.ones((4, 3), bool), "b": jnp.array([[True] * 2, [True] * 2, [False] * 2])}
      >>> small = shrink(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, masks, jnp.ones((1, 4)))
      >>> small.variables["a"].shape, small.variables["b"].shape
      ((4, 2), (2, 2))
    """
    if holds_variables(model) and not _has_numbers(variables):
        variables, masks, inputs = None, variables, ((masks, *inputs) if inputs or masks is not None
                                                      else inputs)  # fmt: skip
        own = as_model(model, *((inputs[0],) if inputs else ((),)), inputs[1:])
    else:
        own = as_model(model, variables, inputs)
    _check_values(own.variables)
    if masks is None and not fold:
        raise PruningError(
            "fold=False keeps whatever training may change, and zeros alone do not tell what is "
            "pruned: pass masks"
        )
    masked = own.variables if masks is None else apply_masks(own.variables, masks)
    cutter = _Cutter(own, masked, None if fold else _fixed(masked, masks), static)
    return _made(cutter, masked, own.inputs, tolerance)


class _Traced(NamedTuple):
    """A model for inputs of certain shapes.

    Attributes:
      plan: what to compute.
      structure, paths: of what it returns.
      results: which of that, by place, are next values of which leaves.
    """

    plan: Plan
    structure: Any
    paths: list[str]
    results: dict[int, int]


class _Call(NamedTuple):
    """What a model is called with: arrays, and all else by which its program is told."""

    arrays: list[Any]
    key: tuple[Any, ...]

    @classmethod
    def of(cls, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> _Call:
        """Take a call apart; of options only arrays are traced."""
        flat, structure = jax.tree.flatten((inputs, dict(options)))
        count = len(jax.tree.leaves(inputs))
        traced = [place < count or is_array(leaf) for place, leaf in enumerate(flat)]
        arrays = [leaf for leaf, own in zip(flat, traced, strict=True) if own]
        rest = tuple(None if own else leaf for leaf, own in zip(flat, traced, strict=True))
        shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in arrays)
        return cls(arrays, (structure, tuple(traced), rest, shapes))


class _Cutter:
    """A model to be cut, and its plans for what it is called with.

    Attributes:
      leaves: of the masked variables.
      paths: of these.
      structure: of the variables.
    """

    def __init__(
        self, model: Model, masked: Any, fixed: list[np.ndarray] | None, static: Mapping[str, Any]
    ) -> None:
        self.leaves, self.structure = jax.tree.flatten(masked)
        self.paths = list(leaves_by_path(masked))
        self.shapes = [tuple(np.shape(leaf)) for leaf in self.leaves]
        self._model, self._masked, self._static = model, masked, dict(static)
        self._fixed = fixed
        self._arrays = [leaf if _is_key(leaf) else np.asarray(leaf) for leaf in self.leaves]
        self._plans: dict[Any, _Traced] = {}

    def call(self, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> _Call:
        """Return a call with these options in place of those that were given first."""
        return _Call.of(inputs, {**self._static, **options})

    def apply(self, leaves: Sequence[Any], arrays: Sequence[Any], key: tuple[Any, ...]) -> Any:
        """Call the large model."""
        structure, traced, rest, _ = key
        own = iter(arrays)
        flat = [next(own) if each else other for each, other in zip(traced, rest, strict=True)]
        inputs, options = jax.tree.unflatten(structure, flat)
        return self._model.function(jax.tree.unflatten(self.structure, leaves), *inputs, **options)

    def plan(self, key: tuple[Any, ...], kept: Sequence[Kept] | None = None) -> _Traced:
        """Return what is to be computed; ``kept``, once that is settled, of each leaf."""
        try:
            known = key in self._plans
        except TypeError:  # options that cannot be compared
            return self._planned(key, self._fixed, kept)
        if not known:
            self._plans[key] = self._planned(key, self._fixed, kept)
        return self._plans[key]

    def whole(self, key: tuple[Any, ...]) -> _Traced:
        """Return the plan that leaves nothing out."""
        return self._planned(key, [np.zeros(shape, bool) for shape in self.shapes], None)

    def _planned(
        self, key: tuple[Any, ...], fixed: list[np.ndarray] | None, kept: Sequence[Kept] | None
    ) -> _Traced:
        structs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in self.leaves]
        inputs = [jax.ShapeDtypeStruct(*each) for each in key[-1]]
        program, out = jax.make_jaxpr(
            lambda leaves, arrays: self.apply(leaves, arrays, key), return_shape=True
        )(structs, inputs)
        listing = listed(program, len(self.leaves), self._fixed is None)
        flat, structure = jax.tree_util.tree_flatten_with_path(out)
        paths = [path_name(path) for path, _ in flat]
        results = _returned_leaves(paths, self._masked, listing)
        if results and kept is None and fixed is self._fixed:
            path = paths[next(iter(results))]
            raise PruningError(
                f"the model returns next values of its variables ({path!r}), which need all of "
                "them: shrink it as it is used after training (train=False), and train with "
                "small.apply(variables, ..., train=True, mutable=['batch_stats'])"
            )
        wanted = {
            place: kept[listing.leaves[number].number].sets[0] if kept else None
            for place, number in results.items()
        }
        plan = planned(listing, self._arrays, fixed, wanted if kept else {})
        return _Traced(plan, structure, paths, results if kept else {})


def _made(cutter: _Cutter, masked: Any, inputs: tuple[Any, ...], tolerance: float) -> Small:
    call = cutter.call(_examples(inputs), {})
    traced = cutter.plan(call.key)
    kept = kept_of(traced.plan, cutter.shapes)
    small = [cut(leaf, own) for leaf, own in zip(cutter.leaves, kept, strict=True)]

    def apply(variables: Any, *inputs: Any, **options: Any) -> Any:
        leaves = jax.tree.leaves(variables)
        _check_small(leaves, kept, cutter.paths)
        call = cutter.call(inputs, options)
        return _run(cutter.plan(call.key, kept), leaves, kept, call.arrays)

    difference = _compared(cutter, call, small, kept, tolerance)
    return Small(
        jax.tree.unflatten(cutter.structure, small), apply, masked,
        dict(zip(cutter.paths, kept, strict=True)), _work(traced.plan),
        _at_full_size(traced.plan), difference,
    )  # fmt: skip


def _run(
    traced: _Traced, leaves: Sequence[Any], kept: Sequence[Kept], inputs: Sequence[Any],
    wide: bool = False,
) -> Any:  # fmt: skip
    """Compute a small program on small leaves."""
    arrays, sets = dict[int, Any](), dict[int, Sets]()
    for number, leaf in traced.plan.listing.leaves.items():
        own = kept[leaf.number]
        if own.stacked and leaf.step is not None:
            arrays[number], sets[number] = leaves[leaf.number][leaf.step], own.sets[leaf.step]
        elif not own.stacked and leaf.step is None:
            arrays[number], sets[number] = leaves[leaf.number], own.sets[0]
        elif not own.stacked:  # a step of what is read whole elsewhere
            assert leaf.step is not None
            place = int(own.sets[0][0][: leaf.step].sum())
            arrays[number], sets[number] = leaves[leaf.number][place], own.sets[0][1:]
    results = {
        place: kept[traced.plan.listing.leaves[number].number].sets[0]
        for place, number in traced.results.items()
    }
    found = run(traced.plan, arrays, sets, inputs, results, wide)
    return jax.tree.unflatten(traced.structure, found)


# ---------------------------------------------------------------- what is given


def _has_numbers(tree: Any) -> bool:
    return any(
        is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(tree)
    )


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


def _returned_leaves(outputs: Sequence[str], variables: Any, listing: Listing) -> dict[int, int]:
    """Return which outputs are next values of Linen's collections, and of which leaves."""
    if not has_collections(variables):
        return {}
    paths, _ = jax.tree_util.tree_flatten_with_path(variables)
    names = [path_name(path) for path, _ in paths]
    values = {
        names[leaf.number]: number
        for number, leaf in listing.leaves.items()
        if leaf.step is None and not names[leaf.number].startswith("params/")
    }
    found = {}
    for place, (path, own) in enumerate(zip(outputs, listing.outputs, strict=True)):
        parts = path.split("/")
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
        number = next((values[end] for end in ends if end in values), None)
        if number is not None and listing.shapes[number] == listing.shapes[own]:
            found[place] = number
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


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)


# ---------------------------------------------------------------- the proof


def _compared(
    cutter: _Cutter, call: _Call, small: Sequence[Any], kept: Sequence[Kept], tolerance: float
) -> float:
    """Return the largest difference of the small network to the masked one."""
    traced = cutter.plan(call.key)
    wide = any(is_half(dtype) for dtype in traced.plan.listing.dtypes)

    def large(leaves: Any, arrays: Any) -> Any:
        if not wide:
            return cutter.apply(leaves, arrays, call.key)
        everything = [Kept(s, (tuple(np.ones(n, bool) for n in s),)) for s in cutter.shapes]
        return _run(cutter.whole(call.key), leaves, everything, arrays, wide=True)

    expected = jax.tree.leaves(jax.jit(large)(cutter.leaves, call.arrays))
    found = jax.tree.leaves(
        jax.jit(lambda leaves, arrays: _run(traced, leaves, kept, arrays, wide))(small, call.arrays)
    )
    return max(
        (
            _difference(path, np.asarray(one), np.asarray(other), tolerance)
            for path, one, other in zip(traced.paths, expected, found, strict=True)
            if not _is_key(one)
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
    off = np.where((numbers[0] == numbers[1]) | (np.isnan(numbers[0]) & np.isnan(numbers[1])), 0, off)
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
        if step.name not in CONTRACTION_RULES:
            continue
        ins = [plan.facts[number] for number in step.ins]
        if all(facts.array is not None for facts in ins):
            continue
        (out,) = step.outs
        large = multiply_adds(step, ins[0].shape, ins[1].shape, plan.facts[out].shape)
        before += large
        keep = plan.kept(out)
        if wants is None or keep is None:
            continue
        left, right = (sizes(want) if want else () for want in wants)
        after += multiply_adds(step, left, right, sizes(keep)) if left and right else 0
    return Work(before, after)


def _at_full_size(plan: Plan) -> tuple[tuple[str, str], ...]:
    found = {
        (step.name, step.line): None
        for step, wants in zip(plan.listing.steps, plan.wants, strict=True)
        if wants is not None and rule_of(step) is FULL
    }
    return tuple(found)
