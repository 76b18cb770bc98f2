"""What primitives make of parameters and constants alone: products of powers, where they can."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.tracing.interpreter import evaluate, out_shape, out_shapes
from lap_jax.tracing.values import FromParams, Power, Value, fit, opaque

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

# Constants beyond this many entries stay uncomputed.
LARGEST = 2**20

# One number in, one number out, at the same place.
LINEAR = frozenset(
    ("neg", "convert_element_type", "copy", "copy_p", "reduce_precision", "optimization_barrier",
     "real", "sharding_constraint", "mesh_cast", "pvary", "stop_gradient", "name", "device_put")
)  # fmt: skip

ParameterRule: TypeAlias = "Callable[[JaxprEqn, list[FromParams]], Sequence[Value]]"


def constants(eqn: JaxprEqn, values: Sequence[FromParams]) -> list[FromParams]:
    """Return what comes of constants, to be computed only if asked for."""
    shapes = out_shapes(eqn)
    computes = [value.compute for value in values if value.compute is not None]
    too_large = any(math.prod(shape) > LARGEST for shape in shapes)
    if len(computes) < len(values) or too_large or eqn.primitive.name.startswith("random"):
        return [FromParams(shape) for shape in shapes]

    @functools.cache
    def results() -> Sequence[jax.Array]:
        with jax.ensure_compile_time_eval():
            return evaluate(eqn, [jnp.asarray(compute()) for compute in computes])

    return [
        FromParams(shape, compute=functools.partial(lambda place: results()[place], place))
        for place, shape in enumerate(shapes)
    ]


def rms(value: FromParams) -> float:
    """Return the root of the mean square of a constant."""
    if value.compute is None:
        return abs(value.scale)
    values = np.asarray(value.compute())
    if values.dtype.kind not in "biuf" and values.dtype.name != "bfloat16":
        return 1.0
    values = np.abs(values.astype(np.float64))
    values = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(values**2))) if values.size else 1.0


def inverse(value: FromParams) -> FromParams:
    """Return one over a value."""
    if value.powers is None:
        return value
    if value.is_constant and (compute := value.compute) is not None:
        return FromParams(value.shape, compute=lambda: 1 / np.asarray(compute(), np.float64))
    powers = tuple(power._replace(power=-power.power) for power in value.powers)
    return FromParams(value.shape, powers, 1 / value.scale if value.scale else 1.0)


def exponent_of(eqn: JaxprEqn) -> float:
    """Return the power that a primitive raises to; 1 for what raises to none."""
    exponents = {"sqrt": 0.5, "rsqrt": -0.5, "square": 2, "integer_pow": eqn.params.get("y")}
    exponent = exponents.get(eqn.primitive.name)
    return 1.0 if exponent is None else float(exponent)


def raised(powers: Sequence[Power], eqn: JaxprEqn) -> tuple[Power, ...]:
    """Return powers behind a root or a power; other functions leave them."""
    exponent = exponent_of(eqn)
    return tuple(power._replace(power=power.power * exponent) for power in powers)


def _shift(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    """Add a number to a leaf; other sums of parameters are no product of powers."""
    leaf, number = reversed(values) if values[0].is_constant else values
    shape, view = out_shape(eqn), leaf.kernel
    plain = view is not None and leaf.scale == 1.0 and number.is_constant
    if not plain or number.compute is None or math.prod(number.shape) != 1:
        return [opaque(values, shape)]
    assert view is not None
    shift = float(str(np.float32(np.asarray(number.compute()).ravel()[0])))
    return [fit(FromParams(leaf.shape, (Power(view, 1.0, shift),)), shape)]


def _times(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    a, b = (fit(value, out_shape(eqn)) for value in values)
    assert isinstance(a, FromParams)
    assert isinstance(b, FromParams)
    if eqn.primitive.name == "div":
        b = inverse(b)
    if a.powers is None or b.powers is None:
        return [opaque((a, b), a.shape)]
    scale = math.prod(rms(part) if part.is_constant else part.scale for part in (a, b))
    return [FromParams(a.shape, (*a.powers, *b.powers), scale)]


def _raise(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    (value,), shape = values, out_shape(eqn)
    if value.powers is None:
        return [opaque(values, shape)]
    return [FromParams(shape, raised(value.powers, eqn), value.scale ** exponent_of(eqn))]


def _keep(eqn: JaxprEqn, values: list[FromParams]) -> Sequence[Value]:
    """Another dtype or place of the same numbers, up to their sign and a rounding."""
    return [
        fit(value, shape)
        if value.is_constant or jnp.issubdtype(var.aval.dtype, jnp.inexact)  # type: ignore[attr-defined]
        else opaque([value], shape)._replace(how=value.made)
        for value, shape, var in zip(values, out_shapes(eqn), eqn.outvars, strict=True)
    ]


OF_PARAMETERS: dict[str, ParameterRule] = {
    **dict.fromkeys(LINEAR, _keep),
    **dict.fromkeys(("add", "add_any"), _shift),
    **dict.fromkeys(("mul", "div"), _times),
    **dict.fromkeys(("sqrt", "rsqrt", "square", "integer_pow"), _raise),
}
"""Of primitives that give a product of powers again; of others the result is opaque."""
