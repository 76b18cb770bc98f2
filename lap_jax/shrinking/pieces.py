"""One place of a value that was put together of pieces: the piece, in place of a part of all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lap_jax.shrinking.steps import Concatenate, Listing, Step, fits
from lap_jax.tracing.movements import Broadcast, Reshape, Take, Transpose


class Pieces:
    """The pieces of a listing's values, as it grows.

    Attributes:
      made: of each value the step that it is a result of.
    """

    def __init__(
        self, listing: Listing, do: Callable[..., list[int]], literal: Callable[[Any], int]
    ) -> None:
        """Keep a listing, and what adds a step and a constant to it."""
        self.made: dict[int, Step] = {}
        self._listing, self._do, self._literal = listing, do, literal

    def found(self, number: int, does: Any) -> int | None:
        """Return the value that a movement of another gives, where there is no need to move."""
        step = self.made.get(number)
        if step is None:
            return None
        if isinstance(does, Reshape) and isinstance(step.does, (Broadcast, Reshape)):
            shape = self._listing.shapes[step.ins[0]]  # axes of size one come and go
            same = math.prod(shape) == math.prod(step.does.shape)
            return step.ins[0] if same and shape == tuple(does.shape) else None
        if isinstance(does, Take) and len(does.places) == 1:
            axis, place = does.axis, int(does.places[0])
            return self._piece(number, axis, place) if self._has(number, axis) else None
        return None

    def origins(self, number: int, axis: int) -> dict[int, int]:
        """Return the leaves that lie along an axis of a value, by number: their own axis.

        Between a leaf and a value there may be steps that go entry by entry, and transposition.
        """
        leaf, step = self._listing.leaves.get(number), self.made.get(number)
        if leaf is not None:
            return {leaf.number: axis} if leaf.step is None else {}
        if step is None:
            return {}
        if isinstance(step.does, Transpose):
            return self.origins(step.ins[0], step.does.order[axis])
        found = dict[int, int]()
        if fits(step):
            for own in self._along(step, axis):
                found |= self.origins(own, axis)
        return found

    def _along(self, step: Step, axis: int) -> list[int]:
        """Return operands of an entrywise step that are as long as its result along an axis."""
        size = self._listing.shapes[step.outs[0]][axis]
        shapes = self._listing.shapes
        return [own for own in step.ins if shapes[own] and shapes[own][axis] == size]

    def _has(self, number: int, axis: int) -> bool:
        """Return whether a value is put together of pieces of size one along an axis."""
        step, shapes = self.made.get(number), self._listing.shapes
        if step is None:
            return False
        if isinstance(step.does, Concatenate):
            return step.does.axis == axis and all(shapes[own][axis] == 1 for own in step.ins)
        if isinstance(step.does, Transpose):
            return self._has(step.ins[0], step.does.order[axis])
        along = self._along(step, axis) if fits(step) else []
        constants = [own in self._listing.constants for own in along]
        return not all(constants) and all(
            constant or self._has(own, axis) for own, constant in zip(along, constants, strict=True)
        )

    def _piece(self, number: int, axis: int, place: int) -> int:
        shapes, dtypes, constants = (
            self._listing.shapes, self._listing.dtypes, self._listing.constants,
        )  # fmt: skip
        if number in constants:
            return self._literal(np.take(constants[number], [place], axis))
        step = self.made[number]
        if isinstance(step.does, Concatenate):
            return step.ins[place]
        if isinstance(step.does, Transpose):
            ins = [self._piece(step.ins[0], step.does.order[axis], place)]
        else:
            along = self._along(step, axis)
            ins = [self._piece(own, axis, place) if own in along else own for own in step.ins]
        shape = list(shapes[number])
        shape[axis] = 1
        (found,) = self._do(step.does, ins, [tuple(shape)], [dtypes[number]], step.line)
        return found
