"""What a program is as a list: its steps, and the values that go in and come out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from lap_jax.tracing.arithmetic import COMPARISON, ELEMENTWISE
from lap_jax.tracing.interpreter import programs
from lap_jax.tracing.movements import Broadcast, Reshape, Take, Transpose

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

ENTRYWISE = ELEMENTWISE | COMPARISON | frozenset(
    ("add", "sub", "mul", "div", "neg", "add_any", "select_n", "convert_element_type", "copy",
     "copy_p", "reduce_precision", "real", "imag", "conj", "complex", "sharding_constraint",
     "stop_gradient", "bessel_i0e", "bessel_i1e", "bitcast_convert_type",
     "random_gamma_grad", "igamma", "igammac", "mul_to", "pvary", "reshard", "mesh_cast")
)  # fmt: skip
"""Primitives whose every entry is a function of the same entries."""


class Concatenate(NamedTuple):
    """Values put one behind the other along an axis."""

    axis: int


class Fill(NamedTuple):
    """A `Take` of which places that nothing comes from hold a number."""

    places: np.ndarray
    axis: int
    number: Any


Does: TypeAlias = "Transpose | Broadcast | Reshape | Take | Fill | Concatenate | JaxprEqn"


class Step(NamedTuple):
    """What one step does, with the numbers of the values that go in and come out, and its line."""

    does: Does
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    line: str

    @property
    def name(self) -> str:
        """Return the name of what it does."""
        from jax.extend.core import JaxprEqn

        if isinstance(self.does, JaxprEqn):
            return str(self.does.primitive.name)
        return type(self.does).__name__.lower()


class Leaf(NamedTuple):
    """A leaf of the variables, or one step's part of a stacked one."""

    number: int
    step: int | None = None


class Listing(NamedTuple):
    """A program as a list.

    Attributes:
      steps: in their order.
      shapes, dtypes: of each value.
      leaves: values that are leaves of the variables.
      inputs: values that the program is given beside them.
      outputs: values that it returns.
      constants: values that depend on nothing.
      stacks: leaves by number of which a loop takes a part a step, and the axis of its steps.
    """

    steps: list[Step]
    shapes: list[tuple[int, ...]]
    dtypes: list[Any]
    leaves: dict[int, Leaf]
    inputs: list[int]
    outputs: list[int]
    constants: dict[int, Any]
    stacks: dict[int, int]


def fits(step: Step) -> bool:
    """Return whether a step goes entry by entry."""
    from jax.extend.core import JaxprEqn

    if not isinstance(step.does, JaxprEqn):
        return False
    if step.name in ENTRYWISE:
        return True
    return step.name.startswith("custom_") and all(map(is_entrywise, programs(step.does))) and (
        len(step.outs) == 1
    )  # fmt: skip


def is_entrywise(program: Any) -> bool:
    """Return whether every entry of what a program gives is a function of the same entries."""
    from jax.extend.core import ClosedJaxpr

    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    shapes = {tuple(var.aval.shape) for var in jaxpr.invars}
    if len(shapes - {()}) > 1:
        return False
    for eqn in jaxpr.eqns:
        inner = programs(eqn)
        if inner:
            if not all(map(is_entrywise, inner)):
                return False
        elif eqn.primitive.name == "broadcast_in_dim":
            if eqn.invars[0].aval.shape:
                return False
        elif eqn.primitive.name not in ENTRYWISE:
            return False
    return True
