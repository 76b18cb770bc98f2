"""Leaves cut to the slices that are kept, whatever tree they are in, and grown again."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lap_jax.errors import PruningError
from lap_jax.packing import is_packed, packed, unpacked
from lap_jax.paths import is_array, map_by_path
from lap_jax.shrinking.plan import Plan
from lap_jax.shrinking.slices import Sets, sizes, union
from lap_jax.shrinking.states import changed


class Kept(NamedTuple):
    """The slices of a leaf that stay.

    Attributes:
      shape: of the large leaf.
      sets: of the whole leaf; of a stacked one, of each step along its first axis, with as many
        slices in each.
      stacked: whether it is a stack.
    """

    shape: tuple[int, ...]
    sets: tuple[Sets, ...]
    stacked: bool = False

    @property
    def small(self) -> tuple[int, ...]:
        """Return the shape of the small leaf."""
        first = sizes(self.sets[0])
        return (len(self.sets), *first) if self.stacked else first

    @property
    def is_whole(self) -> bool:
        """Return whether all of the leaf stays."""
        return self.small == self.shape


ByPath: TypeAlias = Mapping[str, Kept]


def kept_of(plan: Plan, shapes: Sequence[tuple[int, ...]]) -> list[Kept]:
    """Return the slices of each leaf that a program needs."""
    whole: list[Sets | None] = [None] * len(shapes)
    steps: list[dict[int, Sets | None]] = [{} for _ in shapes]
    for number, leaf in plan.listing.leaves.items():
        if leaf.step is None:
            whole[leaf.number] = plan.needs[number]
        else:
            steps[leaf.number][leaf.step] = plan.needs[number]
    found = []
    for shape, own, parts in zip(shapes, whole, steps, strict=True):
        nothing = tuple(np.zeros(size, bool) for size in shape)
        if not parts:
            found.append(Kept(shape, (nothing if own is None else own,)))
        elif own is not None:
            hull = functools.reduce(union, parts.values())
            rest = nothing[1:] if hull is None else hull
            found.append(Kept(shape, (union(own, (np.ones(shape[0], bool), *rest)) or nothing,)))
        else:
            sets = [parts.get(step) or nothing[1:] for step in range(shape[0])]
            found.append(Kept(shape, tuple(_equal(sets)), True))
    return found


def _equal(sets: Sequence[Sets]) -> list[Sets]:
    """Add slices that nobody needs until all steps of a stack have as many."""
    most = np.max([sizes(each) for each in sets], 0)
    found = []
    for each in sets:
        padded = []
        for own, count in zip(each, most, strict=True):
            spare = np.flatnonzero(~own)[: count - own.sum()]
            more = own.copy()
            more[spare] = True
            padded.append(more)
        found.append(tuple(padded))
    return found


def cut(array: Any, kept: Kept) -> Any:
    """Return the kept slices of an array of the large leaf's shape."""
    if kept.is_whole:
        return array
    if kept.stacked:
        return jnp.stack([_box(array[i], own) for i, own in enumerate(kept.sets)])
    return lying_as(_box(array, kept.sets[0]), array)


def _box(array: Any, sets: Sets) -> Any:
    for axis, own in enumerate(sets):
        if not own.all():
            array = jnp.take(jnp.asarray(array), np.flatnonzero(own), axis)
    return array


def lying_as(small: Any, large: Any) -> Any:
    """Lay an array over the devices of another, along axes whose size still allows it."""
    sharding = None if isinstance(large, jax.core.Tracer) else getattr(large, "sharding", None)
    if not isinstance(sharding, NamedSharding) or isinstance(small, jax.core.Tracer):
        return small
    spec = [*sharding.spec, *[None] * (small.ndim - len(sharding.spec))]
    parts = []
    for size, names in zip(small.shape, spec, strict=True):
        over = [] if names is None else [names] if isinstance(names, str) else [*names]
        count = int(np.prod([sharding.mesh.shape[name] for name in over]))
        parts.append(names if size and size % count == 0 else None)
    return jax.device_put(small, NamedSharding(sharding.mesh, PartitionSpec(*parts)))


def grown(small: Any, large: Any, kept: Kept) -> Any:
    """Put the kept slices back into an array of the large leaf's shape."""
    if kept.is_whole:
        return small
    large, small = jnp.asarray(large), jnp.asarray(small)
    if kept.stacked:
        whole = [large[i].at[_index(own)].set(small[i]) for i, own in enumerate(kept.sets)]
        return jnp.stack(whole)
    return large.at[_index(kept.sets[0])].set(small)


def _index(sets: Sets) -> Any:
    return np.ix_(*(np.flatnonzero(own) for own in sets)) if sets else ()


# ---------------------------------------------------------------- trees


def sliced(tree: Any, variables: Any, kept: ByPath) -> Any:
    """Return a tree with every array of a large leaf's shape cut as that leaf.

    Args:
      tree: of paths of the variables (masks, gradients, weights), all or some; or one that holds
        such trees, as states of optimizers do.
      variables: the large ones.
      kept: the slices of each leaf, by path.

    Raises:
      PruningError: if an array is in a leaf's place and has neither its shape nor one number.
    """
    return changed(
        tree, variables, set(kept), lambda path, leaf: _sliced(path, leaf, kept[path]),
        lambda state: _factored(state, kept),
    )  # fmt: skip


def _sliced(path: str, leaf: Any, kept: Kept) -> Any:
    shape = tuple(np.shape(leaf))
    if shape == kept.shape:
        return cut(leaf, kept)
    if is_array(leaf) and is_packed(leaf) and kept.shape and shape[:-1] == kept.shape[:-1]:
        return packed(cut(unpacked(path, leaf, kept.shape), kept))  # of `keep_pruned(pack=True)`
    if shape in ((), (1,)):
        return leaf
    raise PruningError(
        f"an array of shape {shape} stands for {path!r} of shape {kept.shape}: expected one of "
        "that shape; states of optimizers that keep another one are to be made again with init"
    )


def _factored(state: Any, kept: ByPath) -> Any:
    """Cut the means over rows and columns of squared gradients."""

    def factor(which: int) -> Any:
        def change(path: str, leaf: Any) -> Any:
            own = kept[path]
            if tuple(leaf.shape) == (1,) or own.is_whole:
                return leaf
            order, small = np.argsort(own.shape), np.argsort(own.small)
            if own.stacked or (order[-2:] != small[-2:]).any() or min(own.small) < 128:
                raise PruningError(
                    f"{path!r} became {own.small}, of which adafactor keeps another kind of moment "
                    "than of the large one: make its state again with init"
                )
            gone = int(order[-1] if which == 0 else order[-2])
            rest = tuple(part for axis, part in enumerate(own.sets[0]) if axis != gone)
            shape = tuple(size for axis, size in enumerate(own.shape) if axis != gone)
            return _sliced(path, leaf, Kept(shape, (rest,)))

        return change

    return state._replace(
        v_row=map_by_path(factor(0), state.v_row),
        v_col=map_by_path(factor(1), state.v_col),
        v=map_by_path(lambda path, leaf: _sliced(path, leaf, kept[path]), state.v),
    )
