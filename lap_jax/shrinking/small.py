"""A small network: its variables, its program, and what became of each leaf."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lap_jax.paths import leaves_by_path, map_by_path
from lap_jax.shrinking.cuts import Kept, grown, sliced
from lap_jax.shrinking.stacks import Stacks
from lap_jax.tables import source_line, text_table


class Work(NamedTuple):
    """Multiply-adds of the contractions, for the examples that the network was cut for."""

    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class Small:
    """A network without what it computed of nothing or for nobody. ``print(small)`` shows a table.

    Attributes:
      variables: a tree of the same structure as the large network's, with smaller arrays; where
        stacks are taken apart, a dictionary of layers, ``{"0": ..., "1": ...}``, in the place of
        each.
      apply: ``apply(variables, *inputs)`` gives what the masked network gives; it can be jitted and
        differentiated, and takes inputs of any batch size.
      large: the masked variables that it was made of.
      kept: of each leaf, by path, the slices that stay; of what is taken apart, of each layer.
      work: multiply-adds for the examples.
      at_full_size: primitives without a rule, ``(name, source line)``: computed as they were.
      difference: largest difference to the masked network on the examples, relative to the largest
        number of that output.
      stacks: what is taken apart, one level after the other.
    """

    variables: Any
    apply: Callable[..., Any]
    large: Any
    kept: Mapping[str, Kept]
    work: Work
    at_full_size: tuple[tuple[str, str], ...]
    difference: float
    stacks: tuple[Stacks, ...] = ()

    @property
    def parameters(self) -> tuple[int, int]:
        """Numbers in the variables, before and after."""
        return (
            sum(math.prod(each.shape) for each in self.kept.values()),
            sum(math.prod(each.small) for each in self.kept.values()),
        )

    def slice(self, tree: Any) -> Any:
        """Return masks, gradients or an optimizer's state cut as the variables are.

        Args:
          tree: of the large network: by path like its variables, in part perhaps; or holding such
            trees, as the states of `keep_pruned` and of optax do.

        Raises:
          PruningError: if an array in a leaf's place has neither its shape nor one number.
        """
        for stacks in self.stacks:
            tree = stacks.unstack(tree)
        return sliced(tree, self._apart, self.kept)

    def grow(self, variables: Any) -> Any:
        """Return the large network's variables, with these small ones in their places.

        What was left out is as it was in the masked network. Layers are stacked again.
        """
        own = leaves_by_path(variables)
        found = map_by_path(
            lambda path, leaf: grown(own[path], leaf, self.kept[path]) if path in own else leaf,
            self._apart,
        )
        for stacks in reversed(self.stacks):
            found = stacks.restack(found)
        return found

    @property
    def _apart(self) -> Any:
        """The large variables with stacks taken apart."""
        return self.stacks[-1].unstack(self.stacks[-1].large) if self.stacks else self.large

    def __str__(self) -> str:
        rows = [
            (path, _shape(each.shape), _shape(each.small), _share(each.shape, each.small))
            for path, each in self.kept.items()
        ]
        before, after = self.parameters
        rows.append(("total", f"{before:,}", f"{after:,}", f"{after / max(before, 1):.1%}"))
        before, after = self.work
        rows.append(("multiply-adds", f"{before:,}", f"{after:,}", f"{after / max(before, 1):.1%}"))
        table = text_table(("leaf", "before", "after", "left"), rows, right=(1, 2, 3))
        lines = [f"at full size: {name} at {source_line(line)}" for name, line in self.at_full_size]
        return "\n".join([table, *lines])


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"


def _share(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    return f"{math.prod(after) / max(math.prod(before), 1):.1%}"
