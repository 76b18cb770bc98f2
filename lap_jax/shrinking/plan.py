"""Which slices of every value are to be computed: constants forward, needs backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.shrinking.convolving import CONVOLUTION_RULE
from lap_jax.shrinking.dots import DOT_RULE
from lap_jax.shrinking.elementwise import ELEMENTWISE_RULE, entrywise, known_fixed
from lap_jax.shrinking.facts import Facts, known, varying
from lap_jax.shrinking.listing import is_key
from lap_jax.shrinking.moves import MOVE_RULES
from lap_jax.shrinking.reducing import AXIS_RULES
from lap_jax.shrinking.rules import FULL, Part, Rule, Wants
from lap_jax.shrinking.slices import Sets, everything, is_empty, union
from lap_jax.shrinking.steps import Concatenate, Fill, Listing, Step, fits
from lap_jax.tracing.interpreter import evaluate
from lap_jax.tracing.movements import array_moves, move

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

RULES: dict[str, Rule] = {
    **MOVE_RULES,
    **AXIS_RULES,
    "dot_general": DOT_RULE,
    "conv_general_dilated": CONVOLUTION_RULE,
}
"""By the name of what a step does; what goes entry by entry has one rule, the rest none."""


class Plan(NamedTuple):
    """What is known of each value of a program, and which slices of it are needed.

    Attributes:
      listing: the program.
      facts: of each value what is known before there are inputs.
      needs: of each value the slices that what is returned depends on; None for nothing.
      wants: of each step what it takes of its operands; None where it is left out.
    """

    listing: Listing
    facts: list[Facts]
    needs: list[Sets | None]
    wants: list[Wants | None]

    def kept(self, number: int) -> Sets | None:
        """Return the slices of a value that are computed: needed, and not constant."""
        needs, facts = self.needs[number], self.facts[number]
        if needs is None or facts.array is not None:
            return needs
        kept = tuple(need & facts.varies(axis) for axis, need in enumerate(needs))
        return None if is_empty(kept) else kept

    def part(self, step: Step) -> Part:
        """Return a step as it is to be computed."""
        return Part(
            step,
            [self.facts[number] for number in step.ins],
            [self.facts[number] for number in step.outs],
            [self.kept(number) for number in step.outs],
        )


def rule_of(step: Step) -> Rule:
    """Return the rule of a step."""
    if step.name in RULES:
        return RULES[step.name]
    return ELEMENTWISE_RULE if fits(step) else FULL


def planned(
    listing: Listing,
    leaves: Sequence[Any],
    fixed: Sequence[np.ndarray] | None,
    wanted: Mapping[int, Sets | None],
) -> Plan:
    """Return which slices of every value are to be computed.

    Args:
      listing: the program.
      leaves: arrays of the variables.
      fixed: of each leaf the entries that training does not change; None: nothing is trained.
      wanted: of outputs by their place the slices that are returned; of others all are.
    """
    with jax.ensure_compile_time_eval():  # under the trace of what computes it, too
        facts = _forward(listing, leaves, fixed)
    plan = Plan(listing, facts, [None] * len(facts), [None] * len(listing.steps))
    _backward(plan, wanted)
    return plan


def _forward(
    listing: Listing, leaves: Sequence[Any], fixed: Sequence[np.ndarray] | None
) -> list[Facts]:
    facts: list[Facts | None] = [None] * len(listing.shapes)

    def shape_of(number: int) -> tuple[tuple[int, ...], Any]:
        return listing.shapes[number], listing.dtypes[number]

    for number, array in listing.constants.items():
        if jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool:
            facts[number] = known(_thin(array), *shape_of(number), None, False)
    for number, leaf in listing.leaves.items():
        array, own = leaves[leaf.number], None if fixed is None else fixed[leaf.number]
        if is_key(array):
            continue  # no number: nothing is known of what comes of it
        if leaf.step is not None:
            array, own = array[leaf.step], None if own is None else own[leaf.step]
        facts[number] = known(array, *shape_of(number), own, True)
    for number, found in enumerate(facts):
        if found is None:
            facts[number] = varying(*shape_of(number))
    done: list[Facts] = [found for found in facts if found is not None]
    for step in listing.steps:
        ins = [done[number] for number in step.ins]
        outs = [done[number] for number in step.outs]
        if any(is_key(each) for each in ins):
            learnt: Sequence[Facts] = outs  # of random keys, such as those of each layer
        elif ins and all(each.array is not None for each in ins):
            learnt = _computed(step, ins, outs)
        else:
            learnt = rule_of(step).learn(step, ins, outs)
        for number, each in zip(step.outs, learnt, strict=True):
            done[number] = each
    return done


def _thin(array: np.ndarray) -> np.ndarray:
    """Return an array with size one along axes on which it is only repeated."""
    index = tuple(slice(0, 1) if step == 0 else slice(None) for step in array.strides)
    return array[index]


def _computed(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> list[Facts]:
    """Compute a step on known arrays."""
    from jax.extend.core import JaxprEqn

    arrays = [facts.array for facts in ins if facts.array is not None]
    fixed = _fixed(step, ins)
    leaves = any(facts.leaves for facts in ins)
    by_entry = step.name not in RULES and fits(step)
    if isinstance(step.does, JaxprEqn):
        shape = np.broadcast_shapes(*(np.shape(array) for array in arrays)) if by_entry else ()
        full = [
            np.broadcast_to(array, shape if by_entry else facts.shape)
            for array, facts in zip(arrays, ins, strict=True)
        ]
        if by_entry:
            found = entrywise(step.does, list(map(jnp.asarray, full)))
        else:
            found = evaluate(step.does, list(map(jnp.asarray, full)))
    else:
        found = [_moved(step, ins, arrays)]
    if fixed is not None and not by_entry:
        fixed = np.broadcast_to(fixed, outs[0].shape)
    return [
        known(array, facts.shape, facts.dtype, fixed, leaves)
        for array, facts in zip(found, outs, strict=True)
    ]


def _moved(step: Step, ins: Sequence[Facts], arrays: Sequence[Any]) -> np.ndarray:
    full = [np.broadcast_to(a, f.shape) for a, f in zip(arrays, ins, strict=True)]
    if isinstance(step.does, Concatenate):
        return np.concatenate(full, step.does.axis)
    if isinstance(step.does, Fill):
        shifted = np.concatenate(
            [full[0], np.broadcast_to(np.asarray(step.does.number, full[0].dtype),
                                      [1 if i == step.does.axis else size
                                       for i, size in enumerate(full[0].shape)])],
            step.does.axis,
        )  # fmt: skip
        return np.take(shifted, step.does.places, step.does.axis)  # -1: the last, which is the fill
    return _thin(np.asarray(move(array_moves(np), full[0], (step.does,))))  # type: ignore[arg-type]


def _fixed(step: Step, ins: Sequence[Facts]) -> np.ndarray | None:
    """Return which entries of a step's result training does not change; None: all."""
    if all(facts.fixed is None for facts in ins):
        return None
    if step.name not in RULES and fits(step):
        return known_fixed(step, ins)
    fixed = [
        np.ones(f.shape, bool) if f.fixed is None else np.broadcast_to(f.fixed, f.shape)
        for f in ins
    ]
    from jax.extend.core import JaxprEqn

    if isinstance(step.does, Fill):
        boolean = step._replace(does=step.does._replace(number=True))
        return _moved(boolean, ins, fixed)
    if not isinstance(step.does, JaxprEqn):
        return _moved(step, ins, fixed)
    if step.name == "dot_general":  # fixed where every term that is not nought is
        alive = [np.broadcast_to(f.alive, f.shape) for f in ins]
        both = [alive, [own & each for own, each in zip(alive, fixed, strict=True)]]
        counts = [_terms(step.does, *map(np.float32, pair)) for pair in both]
        return np.asarray(counts[0] == counts[1])
    return np.asarray(all(each.all() for each in fixed))


def _terms(eqn: JaxprEqn, *arrays: Any) -> np.ndarray:
    """Return how many terms are in each sum of a contraction."""
    params = {**eqn.params, "preferred_element_type": None}
    return np.asarray(eqn.primitive.bind(*map(jnp.asarray, arrays), **params))


def _backward(plan: Plan, wanted: Mapping[int, Sets | None]) -> None:
    listing = plan.listing
    for place, number in enumerate(listing.outputs):
        needs = wanted[place] if place in wanted else everything(listing.shapes[number])
        plan.needs[number] = union(plan.needs[number], needs)
    for index in reversed(range(len(listing.steps))):
        step = listing.steps[index]
        part = plan.part(step)
        if all(keep is None for keep in part.keeps):
            continue
        if all(f.array is not None and not f.leaves for f in part.outs):
            continue  # a constant, which is at hand
        plan.wants[index] = wants = rule_of(step).wants(part)
        for number, own in zip(step.ins, wants, strict=True):
            if own is not None and (is_empty(own)):
                own = None
            plan.needs[number] = union(plan.needs[number], own)
