"""The small program: every step at the slices that are kept, on arrays that hold only these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.shrinking.plan import Plan, rule_of
from lap_jax.shrinking.rules import widened
from lap_jax.shrinking.slices import Sets, brought, everything, sizes, within


def run(
    plan: Plan,
    leaves: Mapping[int, Any],
    kept: Mapping[int, Sets],
    inputs: Sequence[Any],
    results: Mapping[int, Sets] = {},
    wide: bool = False,
) -> list[Any]:
    """Compute what a program returns, in its small form.

    Args:
      plan: what is kept of every value.
      leaves: of each value that is a leaf, an array of the slices in ``kept``.
      inputs: arrays.
      results: of outputs by their place the slices to be returned; of others all are.
      wide: compute half precision in float32.

    Raises:
      PruningError: if slices of a leaf are needed that are not kept.
    """
    listing, facts = plan.listing, plan.facts
    values: dict[int, Any] = {}
    have: dict[int, Sets] = {}
    for number, array in leaves.items():
        needs = plan.needs[number]
        if needs is not None and not within(needs, kept[number]):
            raise PruningError(
                "the small network was cut for inputs of other shapes, and lacks parameters that "
                "these need: give shrink examples of the largest inputs"
            )
        values[number], have[number] = array, kept[number]
    for number, array in zip(listing.inputs, inputs, strict=True):
        values[number], have[number] = array, everything(listing.shapes[number])
    if wide:
        values = {n: widened(array) for n, array in values.items()}

    def at(number: int, want: Sets | None) -> Any:
        if want is None:
            return None
        known = facts[number]
        if number in values:
            return brought(values[number], have[number], want, known.fills)
        if known.array is not None and not known.leaves:
            array = known.array
            for axis, own in enumerate(want):
                if array.shape[axis] == len(own) and not own.all():
                    array = np.compress(own, array, axis)
            found = jnp.broadcast_to(jnp.asarray(array), sizes(want))
        elif number in listing.constants:  # such as a random key
            return listing.constants[number]
        else:  # constant wherever it is needed
            constant = next(i for i, own in enumerate(want) if not (own & known.varies(i)).any())
            nothing = tuple(own & (i != constant) for i, own in enumerate(want))
            found = brought(jnp.zeros(sizes(nothing), known.dtype), nothing, want, known.fills)
        return widened(found) if wide else found

    for step, wants in zip(listing.steps, plan.wants, strict=True):
        if wants is None:
            continue
        part = plan.part(step)
        arrays = [at(number, want) for number, want in zip(step.ins, wants, strict=True)]
        found = rule_of(step).compute(part, arrays, wide)
        for number, keep, array in zip(step.outs, part.keeps, found, strict=True):
            if keep is not None:
                values[number], have[number] = array, keep
    return [
        at(number, results.get(place, everything(listing.shapes[number])))
        for place, number in enumerate(listing.outputs)
    ]
