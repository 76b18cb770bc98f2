"""A model to be cut: what it is called with, its plans for that, and its small program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.paths import has_collections, is_array, leaves_by_path, path_name
from lap_jax.shrinking.cuts import Kept
from lap_jax.shrinking.listing import is_key, listed
from lap_jax.shrinking.plan import Plan, planned
from lap_jax.shrinking.program import run
from lap_jax.shrinking.slices import Sets
from lap_jax.shrinking.steps import Listing
from lap_jax.tracing.model import Model


class Traced(NamedTuple):
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


class Call(NamedTuple):
    """What a model is called with: arrays, and all else by which its program is told."""

    arrays: list[Any]
    key: tuple[Any, ...]

    @classmethod
    def of(cls, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> Call:
        """Take a call apart; of options only arrays are traced."""
        flat, structure = jax.tree.flatten((inputs, dict(options)))
        count = len(jax.tree.leaves(inputs))
        traced = [place < count or is_array(leaf) for place, leaf in enumerate(flat)]
        arrays = [leaf for leaf, own in zip(flat, traced, strict=True) if own]
        rest = tuple(None if own else leaf for leaf, own in zip(flat, traced, strict=True))
        shapes = tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in arrays)
        return cls(arrays, (structure, tuple(traced), rest, shapes))


class Cutter:
    """A model to be cut, and its plans for what it is called with.

    Attributes:
      leaves: of the masked variables.
      paths: of these.
      structure: of the variables.
    """

    def __init__(
        self, model: Model, seen: Any, fixed: list[np.ndarray] | None, static: Mapping[str, Any]
    ) -> None:
        """Keep the model with its masked variables, and on the host those that plans go by."""
        self.leaves, self.structure = jax.tree.flatten(model.variables)
        self.paths = list(leaves_by_path(model.variables))
        self.shapes = [tuple(np.shape(leaf)) for leaf in self.leaves]
        self._model, self._static, self._fixed = model, dict(static), fixed
        self._arrays = [
            leaf if is_key(leaf) else np.asarray(leaf) for leaf in jax.tree.leaves(seen)
        ]
        self._plans: dict[Any, Traced] = {}

    def call(self, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> Call:
        """Return a call with these options in place of those that were given first.

        Raises:
          PruningError: if a size is a symbol, as `jax.export` may have it.
        """
        call = Call.of(inputs, {**self._static, **options})
        for shape, _ in call.key[-1]:
            if not all(isinstance(size, (int, np.integer)) for size in shape):
                raise PruningError(
                    f"an input has shape ({', '.join(map(str, shape))}), and the small network "
                    "goes by sizes that are numbers: for any batch, export jax.vmap(lambda v, x: "
                    "small.apply(v, x[None])[0], (None, 0))"
                )
        return call

    def apply(self, leaves: Sequence[Any], arrays: Sequence[Any], key: tuple[Any, ...]) -> Any:
        """Call the large model."""
        structure, traced, rest, _ = key
        own = iter(arrays)
        flat = [next(own) if each else other for each, other in zip(traced, rest, strict=True)]
        inputs, options = jax.tree.unflatten(structure, flat)
        return self._model.function(jax.tree.unflatten(self.structure, leaves), *inputs, **options)

    def plan(self, key: tuple[Any, ...], kept: Sequence[Kept] | None = None) -> Traced:
        """Return what is to be computed; ``kept``, once that is settled, of each leaf."""
        try:
            known = key in self._plans
        except TypeError:  # options that cannot be compared
            return self._planned(key, self._fixed, kept)
        if not known:
            self._plans[key] = self._planned(key, self._fixed, kept)
        return self._plans[key]

    def whole(self, key: tuple[Any, ...]) -> Traced:
        """Return the plan that leaves nothing out."""
        return self._planned(key, [np.zeros(shape, bool) for shape in self.shapes], None)

    def stacks(self, key: tuple[Any, ...]) -> dict[str, int]:
        """Return by path the leaves whose parts are layers of a loop, and the axis of these."""
        axes = self._listed(key)[0].stacks
        return {path: axes[number] for number, path in enumerate(self.paths) if number in axes}

    def _listed(self, key: tuple[Any, ...]) -> tuple[Listing, Any]:
        """Return the program, and shapes of what it returns."""
        structs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in self.leaves]
        inputs = [jax.ShapeDtypeStruct(*each) for each in key[-1]]
        program, out = jax.make_jaxpr(
            lambda leaves, arrays: self.apply(leaves, arrays, key), return_shape=True
        )(structs, inputs)
        return listed(program, len(self.leaves), self._fixed is None), out

    def _planned(
        self, key: tuple[Any, ...], fixed: list[np.ndarray] | None, kept: Sequence[Kept] | None
    ) -> Traced:
        listing, out = self._listed(key)
        flat, structure = jax.tree_util.tree_flatten_with_path(out)
        paths = [path_name(path) for path, _ in flat]
        results = _returned_leaves(paths, self._model.variables, listing)
        if results and kept is None and fixed is self._fixed:
            path = paths[next(iter(results))]
            raise PruningError(
                f"the model returns next values of its variables ({path!r}), which need all of "
                "them: shrink it as it is used after training (train=False), and train with "
                "small.apply(variables, ..., train=True, mutable=['batch_stats'])"
            )
        if kept and (
            over := [n for n in results.values() if kept[listing.leaves[n].number].stacked]
        ):
            path = self.paths[listing.leaves[over[0]].number]
            raise PruningError(
                f"the model returns next values of {path!r}, a stack whose layers keep slices of "
                "their own: shrink(..., unstack=True) takes it apart"
            )
        wanted = {
            place: kept[listing.leaves[number].number].sets[0] if kept else None
            for place, number in results.items()
        }
        plan = planned(listing, self._arrays, fixed, wanted if kept else {})
        return Traced(plan, structure, paths, results if kept else {})


def run_small(
    traced: Traced, leaves: Sequence[Any], kept: Sequence[Kept], inputs: Sequence[Any],
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
