"""What each primitive does to channel numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn

from lap_jax.graph.layers import IDENTITY, Index, Layer
from lap_jax.tracing import channels, views
from lap_jax.tracing.channels import NONE, Act, Loss, Route
from lap_jax.tracing.interpreter import Reader, loop_of, where
from lap_jax.tracing.views import Known, Power, View

Value = Known | Act

# One number in, one number out, at the same place.
LINEAR = frozenset(
    ("neg", "convert_element_type", "copy", "copy_p", "reduce_precision", "optimization_barrier",
     "real", "sharding_constraint", "mesh_cast", "pvary", "stop_gradient", "name", "device_put")
)  # fmt: skip
ELEMENTWISE = frozenset(
    ("max", "min", "abs", "sign", "exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic",
     "erf", "erfc", "erf_inv", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
     "cosh", "asinh", "acosh",
     "atanh", "sqrt", "rsqrt", "cbrt", "square", "integer_pow", "round", "floor", "ceil", "clamp",
     "pow", "rem", "atan2", "nextafter", "lgamma", "digamma", "is_finite", "not", "and", "or",
     "xor", "population_count", "shift_left", "shift_right_logical", "shift_right_arithmetic")
)  # fmt: skip
COMPARISON = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "lt_to", "le_to", "eq_to"))
REDUCTION = frozenset(
    ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or",
     "reduce_xor", "argmax", "argmin")
)  # fmt: skip
ALONG = frozenset(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"))
WINDOW = frozenset(["reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"])
# Constants beyond this many entries stay uncomputed.
_LARGEST = 2**20


@dataclass
class Draft:
    """A graph in the making."""

    shapes: dict[str, tuple[int, ...]]
    kernels: frozenset[str]
    nodes: dict[str, Layer] = field(default_factory=dict)
    uses: dict[tuple[Any, ...], str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    factors: dict[str, tuple[Power, ...]] = field(default_factory=dict)
    entries: dict[str, tuple[np.ndarray, ...]] = field(default_factory=dict)
    edges: dict[tuple[str, str], list[tuple[np.ndarray, float]]] = field(default_factory=dict)
    barriers: dict[tuple[str, str, str], tuple[dict[str, None], dict[str, None]]] = field(
        default_factory=dict
    )
    indices: dict[Index, Index] = field(default_factory=dict)
    met: list[tuple[str, np.ndarray | None]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def index(self, values: np.ndarray) -> Index:
        """Return an index that equal ones share."""
        index = Index(values)
        return self.indices.setdefault(index, index)

    def connect(self, source: str, target: str, pairs: np.ndarray, scale: float = 1.0) -> None:
        """Add an edge: ``pairs`` of source channel and target input, ``[n, 2]``."""
        self.edges.setdefault((source, target), []).append((pairs, scale))

    def junction(
        self, kind: str, size: int, line: str, powers: tuple[Power, ...] = (),
        entries: tuple[np.ndarray, ...] = (), root: str | None = None,
    ) -> str:  # fmt: skip
        """Add a junction and return its name."""
        name = f"{kind if not powers else 'scale'} {len(self.sizes)}"
        self.sizes[name], self.kinds[name], self.lines[name] = size, kind, line
        self.factors[name], self.entries[name] = powers, entries
        self.roots[name] = name if root is None else self.roots.get(root, root)
        return name

    def where(self, eqn: JaxprEqn) -> str:
        """Return the source line of an equation, or of the call that it is part of."""
        return where(eqn) or next((line for line in reversed(self.calls) if line), "")

    def root(self, node: str) -> str:
        """Return what a junction that only scales gets its channels from."""
        return self.roots.get(node, node)

    def layers_before(self, node: str) -> list[str]:
        """Return the layers whose channels meet in a junction."""
        if node in self.nodes or node == IDENTITY:
            return [node] if node in self.nodes else []
        seen: dict[str, None] = {}
        stack = [node]
        found: dict[str, None] = {}
        while stack:
            for source, target in list(self.edges):
                if target == stack[0] and source not in seen:
                    seen[source] = None
                    if source in self.nodes:
                        found[source] = None
                    elif source != IDENTITY:
                        stack.append(source)
            stack.pop(0)
        return list(found)

    def report(self, loss: Loss, before: Sequence[str] = (), after: Sequence[str] = ()) -> None:
        """Record that lookahead stops."""
        key = (loss.primitive, loss.where, loss.why)
        lost_before, lost_after = self.barriers.setdefault(key, ({}, {}))
        lost_before.update(dict.fromkeys(before))
        lost_after.update(dict.fromkeys(after))

    def lose(self, loss: Loss, values: Sequence[Value]) -> None:
        """Report that nothing comes after the layers that values hold channels of."""
        for value in values:
            if isinstance(value, Act):
                for route in value.routes:
                    self.report(loss, self.layers_before(route.node))

    def consume(self, act: Act, layer: str = "") -> None:
        """Report what an activation has lost on its way to a layer, or to the output."""
        for loss in act.losses:
            self.report(loss, self.layers_before(loss.node), [layer] if layer else [])

    def end(self, act: Act) -> None:
        """Take an output of the network."""
        self.consume(act)
        for route in act.routes:
            used = any(source == route.node for source, _ in self.edges)
            if used and route.node != IDENTITY:
                self.connect(route.node, IDENTITY, np.zeros((0, 2), np.int32))


def reader(draft: Draft) -> Reader:
    """Return how to read a program into a draft."""

    def literal(value: Any) -> Known:
        shape = np.shape(value)
        if shape == () and jnp.issubdtype(jnp.result_type(value), jnp.number):
            return Known(shape, (), float(np.float32(abs(value))), lambda: value)
        return Known(shape, (), 1.0, lambda: value)

    def equation(eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
        return _equation(draft, eqn, values)

    def branches(eqn: JaxprEqn, values: list[Value], run: Callable[..., Any]) -> Sequence[Value]:
        chosen, *arguments = values
        found = [run(branch, arguments) for branch in eqn.params["branches"]]
        if isinstance(chosen, Known) and chosen.compute is not None:
            return found[int(chosen.compute())]
        return [
            functools.reduce(lambda a, b: _added(draft, eqn, a, b, 0.0), outs)
            for outs in zip(*found, strict=True)
        ]

    def loop(eqn: JaxprEqn, values: list[Value], run: Callable[..., Any]) -> Sequence[Value]:
        return _scan(draft, eqn, values, run)

    return Reader(literal, equation, branches, loop, draft.calls)


def _equation(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    name, shape = eqn.primitive.name, tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    if all(isinstance(value, Known) and value.is_constant for value in values):
        return _constants(eqn, values)  # type: ignore[arg-type]
    rule = _RULES.get(name)
    if rule is not None:
        return rule(draft, eqn, values)
    movement = _movement(eqn, values)
    if movement is not None:
        return [_move(values[0], shape, *movement)]
    if all(isinstance(value, Known) for value in values):
        return [_opaque(values, tuple(var.aval.shape)) for var in eqn.outvars]  # type: ignore[attr-defined]
    if name in LINEAR:
        return [_fit(values[0], shape)]
    if name in COMPARISON:
        return [_plain(values, shape)]
    if name in ELEMENTWISE:
        return [_nonlinear(draft, eqn, values, shape)]
    return _barrier(draft, eqn, values, f"{name} is not known to keep channels apart")


def _opaque(values: Sequence[Value], shape: tuple[int, ...]) -> Known:
    """Return a value that is some function of parameters, and no product of their powers."""
    found = [views.leaves(value) for value in values if isinstance(value, Known)]
    return Known(shape, None, leaves=frozenset().union(*found))


def _constants(eqn: JaxprEqn, values: list[Known]) -> list[Value]:
    """Return constants, to be computed only if asked for."""
    shapes = [tuple(var.aval.shape) for var in eqn.outvars]  # type: ignore[attr-defined]
    computes = [value.compute for value in values]
    if None in computes or any(math.prod(shape) > _LARGEST for shape in shapes):
        return [Known(shape) for shape in shapes]
    if eqn.primitive.name.startswith("random"):
        return [Known(shape) for shape in shapes]

    @functools.cache
    def results() -> Sequence[Any]:
        with jax.ensure_compile_time_eval():
            arguments = [jnp.asarray(compute()) for compute in computes]  # type: ignore[misc]
            found = eqn.primitive.bind(*arguments, **eqn.params)
            return found if eqn.primitive.multiple_results else [found]

    return [
        Known(shape, (), 1.0, lambda place=place: results()[place])  # type: ignore[misc]
        for place, shape in enumerate(shapes)
    ]


def _fit(value: Value, shape: tuple[int, ...]) -> Value:
    """Return the value in the shape of the result: scalars and axes of size one are broadcast."""
    if value.shape == shape:
        return value
    if isinstance(value, Known) and value.is_constant:
        return value._replace(shape=shape)
    axes = range(len(value.shape))
    return _move(
        value, shape, lambda ids: channels.broadcast(ids, shape, axes),
        lambda view: views.broadcast(view, shape, axes),
    )  # fmt: skip


def _move(
    value: Value, shape: tuple[int, ...], ids: Callable[[np.ndarray], np.ndarray],
    view: Callable[[View], View | None],
) -> Value:  # fmt: skip
    if isinstance(value, Known):
        return views.moved(value, view, shape)
    return channels.moved(value, shape, ids, view)


def _movement(
    eqn: JaxprEqn, values: list[Value]
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[View], View | None]] | None:
    """Return how a primitive moves data, for channel numbers and for views."""
    name, params = eqn.primitive.name, eqn.params
    shape = tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    old = values[0].shape
    if name == "transpose":
        order = params["permutation"]
        return (lambda ids: ids.transpose(order)), (lambda view: views.transpose(view, order))
    if name in ("reshape", "squeeze", "expand_dims"):
        return (
            lambda ids: channels.reshaped(ids, shape),
            lambda view: views.reshape(view, shape),
        )
    if name == "broadcast_in_dim":
        axes = params["broadcast_dimensions"]
        return (
            lambda ids: channels.broadcast(ids, shape, axes),
            lambda view: views.broadcast(view, shape, axes),
        )
    if name == "rev":
        flipped = params["dimensions"]
        start = [size - 1 if axis in flipped else 0 for axis, size in enumerate(old)]
        stop = [-1 if axis in flipped else size for axis, size in enumerate(old)]
        step = [-1 if axis in flipped else 1 for axis in range(len(old))]
        return (lambda ids: np.flip(ids, flipped)), (
            lambda view: views.cut(view, start, stop, step)
        )
    if name == "tile":

        def tiled(ids: np.ndarray) -> np.ndarray:
            for axis, count in enumerate(params["reps"]):
                ids = channels.joined([ids] * count, axis) if count > 1 else ids
            return ids

        return tiled, lambda view: None
    if name == "slice":
        start, stop = list(params["start_indices"]), list(params["limit_indices"])
        step = list(params["strides"] or (1,) * len(old))
        cut = tuple(map(slice, start, stop, step))
        return (lambda ids: ids[cut]), (lambda view: views.cut(view, start, stop, step))
    if name == "dynamic_slice":
        places = values[1:]
        sizes = params["slice_sizes"]
        if all(isinstance(place, Known) and place.compute is not None for place in places):
            given = [int(place.compute()) for place in places]  # type: ignore[union-attr, misc]
            start = [
                min(max(first, 0), size - length)
                for first, size, length in zip(given, old, sizes, strict=True)
            ]
            stop = [first + length for first, length in zip(start, sizes, strict=True)]
            cut = tuple(map(slice, start, stop))
            return (lambda ids: ids[cut]), (
                lambda view: views.cut(view, start, stop, [1] * len(old))
            )
        free = [axis for axis, size in enumerate(sizes) if size != old[axis]]
        if isinstance(values[0], Act) and _are_constant(values[0], free):
            return (
                lambda ids: channels.held(channels.first(ids, free), shape),
                lambda view: views.cut(view, [0] * len(old), sizes, [1] * len(old)),
            )
    if name == "gather" and isinstance(values[0], Act):
        return _gathered(eqn, values)
    return None


def _gathered(
    eqn: JaxprEqn, values: list[Value]
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[View], View | None]] | None:
    """Return how a gather moves an activation: by constants, or along axes of one channel."""
    dims, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, old = tuple(eqn.outvars[0].aval.shape), values[0].shape  # type: ignore[attr-defined]
    act, index = values
    gone = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
    cut = [axis for axis in range(len(old)) if sizes[axis] != old[axis] or axis in gone]
    if isinstance(act, Act) and _are_constant(act, cut):
        kept = [axis for axis in range(len(old)) if axis not in gone]

        def along(ids: np.ndarray) -> np.ndarray:
            thin = channels.first(ids, cut)
            thin = thin.reshape([thin.shape[axis] for axis in kept])
            full = channels.held(thin, [sizes[axis] for axis in kept])
            return channels.broadcast(full, shape, dims.offset_dims)

        return along, lambda view: None
    if isinstance(index, Known) and index.compute is not None and math.prod(old) <= _LARGEST * 16:
        places = index.compute()

        def bound(ids: np.ndarray) -> np.ndarray:
            params = eqn.params | {"fill_value": NONE}
            return np.asarray(eqn.primitive.bind(jnp.asarray(ids), places, **params))

        return bound, lambda view: None
    return None


def _are_constant(act: Act, axes: Sequence[int]) -> bool:
    return all(channels.constant(route.ids, axes) for route in act.routes) and not act.gain


def _bent(routes: Sequence[Route]) -> tuple[Route, ...]:
    """Return routes behind a function that is not linear."""
    return tuple(route._replace(linear=False) for route in routes)


def _plain(values: Sequence[Value], shape: tuple[int, ...]) -> Act:
    """Return what is left of activations where no channel of theirs passes on."""
    unit = any(isinstance(value, Act) and value.unit for value in values)
    return Act(shape, unit=unit)


def _losses(values: Sequence[Value]) -> frozenset[Loss]:
    return frozenset().union(*(value.losses for value in values if isinstance(value, Act)))


def _nonlinear(
    draft: Draft, eqn: JaxprEqn, values: Sequence[Value], shape: tuple[int, ...]
) -> Value:
    """Return the result of a function of one activation, or of several of the same channels."""
    acts = [_fit(value, shape) for value in values if isinstance(value, Act)]
    found = functools.reduce(lambda a, b: _added(draft, eqn, a, b, 0.0), acts)
    assert isinstance(found, Act)
    routes = _bent(found.routes)
    gain = tuple(_to_power(power, eqn) for power in found.gain)
    return found._replace(routes=routes, gain=gain)


def _to_power(power: Power, eqn: JaxprEqn) -> Power:
    exponent = {"sqrt": 0.5, "rsqrt": -0.5, "square": 2.0}.get(eqn.primitive.name, 1.0)
    return power._replace(power=power.power * exponent)


def _add(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    a, b = values
    if isinstance(a, Known) and isinstance(b, Known):
        return [_shifted(a, b, eqn)]
    shape = tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    if isinstance(a, Known) or isinstance(b, Known):  # a bias
        act = b if isinstance(a, Known) else a
        return [_fit(act._replace(gain=()) if isinstance(act, Act) else act, shape)]
    sign = -1.0 if eqn.primitive.name == "sub" else 1.0
    return [_added(draft, eqn, _fit(a, shape), _fit(b, shape), sign)]


def _shifted(a: Known, b: Known, eqn: JaxprEqn) -> Known:
    """Add a number to a leaf; other sums of parameters are no product of powers."""
    shape = tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    if a.is_constant:
        a, b = b, a
    view = a.kernel
    if view is None or a.scale != 1.0 or not b.is_constant or b.compute is None:
        return _opaque((a, b), shape)
    if math.prod(b.shape) != 1 or eqn.primitive.name == "sub":
        return _opaque((a, b), shape)
    number = float(str(np.float32(np.asarray(b.compute()).ravel()[0])))
    return _known(_fit(Known(a.shape, (Power(view, 1.0, number),)), shape))


def _known(value: Value) -> Known:
    assert isinstance(value, Known)
    return value


def _same(a: Route, b: Route) -> bool:
    return a.node == b.node and (
        a.ids is b.ids or np.array_equal(channels.small(a.ids), channels.small(b.ids))
    )


def _added(draft: Draft, eqn: JaxprEqn, a: Value, b: Value, sign: float) -> Value:
    """Add activations; ``sign`` 0 means that it is one or the other."""
    if isinstance(a, Known) or isinstance(b, Known):
        return b if isinstance(a, Known) else a
    unit, losses = a.unit or b.unit, _absorbed(draft, a, b)
    routes = list(a.routes)
    for new in b.routes:
        for place, old in enumerate(routes):
            if _same(old, new):
                linear = old.linear and new.linear and sign != 0
                scale = abs(old.scale + sign * new.scale) if linear else max(old.scale, new.scale)
                pool = max(old.pool, new.pool)
                routes[place] = old._replace(scale=scale, linear=linear, pool=pool)
                break
        else:
            routes.append(new)
    if len(routes) in (len(a.routes), len(b.routes)) and not (unit and routes and a.unit != b.unit):
        gain = a.gain if not b.gain else b.gain if not a.gain else ()
        return Act(a.shape, tuple(routes), () if routes else gain, unit, losses)
    merged = Act(a.shape, tuple(routes), (), unit, losses)
    return _collapsed(draft, merged, draft.where(eqn)) if _overlap(merged) or unit else merged


def _overlap(act: Act) -> bool:
    """Return whether some element holds channels of more than one route."""
    ids = [channels.small(route.ids) for route in act.routes]
    if len(ids) < 2:
        return False
    counts: Any = sum((part != NONE).astype(np.int8) for part in ids)
    return bool((counts > 1).any())


def _absorbed(draft: Draft, a: Act, b: Act) -> frozenset[Loss]:
    """Return the losses of two activations that meet, less those that one is a statistic of.

    The mean that is taken from what it is the mean of, and the variance that it is divided by, take
    no channel away.
    """
    roots = {draft.root(route.node) for act in (a, b) for route in act.routes}
    return frozenset(
        loss for loss in a.losses | b.losses if not loss.node or draft.root(loss.node) not in roots
    )


def _collapsed(draft: Draft, act: Act, line: str) -> Act:
    """Return the activation with a junction in place of several routes."""
    if len(act.routes) == 1 and not (act.unit):
        return act
    return _gained(draft, act, (), line)


def _feed(draft: Draft, name: str, routes: Sequence[Route], rows: np.ndarray) -> None:
    """Lead routes to a junction; ``rows`` has their channels, a column per route."""
    places = np.arange(len(rows), dtype=np.int32)
    for column, route in enumerate(routes):
        held = rows[:, column] != NONE
        pairs = np.stack([rows[held, column], places[held]], 1).astype(np.int32)
        draft.connect(route.node, name, pairs, route.scale)


def _mul(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    shape = tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    divides = eqn.primitive.name == "div"
    a, b = (_fit(value, shape) for value in values)
    if isinstance(b, Known) and divides:
        b = _inverse(b)
    if isinstance(a, Known) and isinstance(b, Known):
        return [_known_product(a, b)]
    if isinstance(a, Act) and isinstance(b, Act):
        return [_product(draft, eqn, a, b)]
    if isinstance(a, Known):
        a, b = b, a
        if divides:
            assert isinstance(a, Act)
            routes = _bent(a.routes)
            a = a._replace(routes=routes, gain=())
    assert isinstance(a, Act)
    assert isinstance(b, Known)
    return [_scaled(draft, eqn, a, b)]


def _inverse(known: Known) -> Known:
    if known.powers is None:
        return known
    if known.is_constant:
        size, compute = known.scale, known.compute
        if compute is None:
            return known._replace(scale=1 / size if size else 1.0)
        return Known(known.shape, (), 1.0, lambda: 1 / np.asarray(compute(), np.float64))
    powers = tuple(power._replace(power=-power.power) for power in known.powers)
    return Known(known.shape, powers, 1 / known.scale if known.scale else 1.0)


def _known_product(a: Known, b: Known) -> Known:
    if a.powers is None or b.powers is None:
        return _opaque((a, b), a.shape)
    scale = math.prod(views.size_of(part) if part.is_constant else part.scale for part in (a, b))
    return Known(a.shape, (*a.powers, *b.powers), scale)


def _scaled(draft: Draft, eqn: JaxprEqn, act: Act, known: Known) -> Act:
    """Multiply an activation by what is known."""
    if known.powers is None:
        if act.routes:
            why = "the factor is not a product of powers of parameters"
            draft.lose(Loss("", eqn.primitive.name, draft.where(eqn), why), [act])
        return act
    size = views.size_of(known) if known.is_constant else known.scale
    routes = tuple(route._replace(scale=route.scale * size) for route in act.routes)
    act = act._replace(routes=routes)
    if not known.powers:
        return act
    if not act.routes:
        return act._replace(gain=(*act.gain, *known.powers))
    return _gained(draft, act, known.powers, draft.where(eqn))


def _gained(draft: Draft, act: Act, powers: tuple[Power, ...], line: str) -> Act:
    """Return the activation behind a junction of its routes, multiplied by parameters if any."""
    columns = [route.ids for route in act.routes]
    own = len(columns)
    for power in powers:
        axes = [axis for axis, by in enumerate(power.view.strides) if by]
        columns.append(channels.held(views.entries(power.view, axes), act.shape))
    numbers, rows = channels.distinct(columns, own)
    root = act.routes[0].node if own == 1 and not act.unit else None
    entries = tuple(rows[:, own + place] for place in range(len(powers)))
    name = draft.junction("sum", len(rows), line, powers, entries, root)
    _feed(draft, name, act.routes, rows)
    if act.unit:
        draft.connect(IDENTITY, name, np.zeros((0, 2), np.int32))
    linear = all(route.linear for route in act.routes)
    pool = max(route.pool for route in act.routes)
    return act._replace(routes=(Route(name, numbers, 1.0, linear, pool),), unit=False)


def _product(draft: Draft, eqn: JaxprEqn, a: Act, b: Act) -> Act:
    """Multiply two activations: a gate, or a normaliser."""
    losses = _absorbed(draft, a, b)
    if not a.routes or not b.routes:
        act, other = (a, b) if a.routes else (b, a)
        routes = _bent(act.routes)
        if not routes:
            return Act(a.shape, (), a.gain + b.gain, a.unit or b.unit, losses)
        act = act._replace(routes=routes, losses=losses)
        return _gained(draft, act, other.gain, draft.where(eqn)) if other.gain else act
    for one, other in ((a, b), (b, a)):
        if all(any(_same(old, new) for old in one.routes) for new in other.routes):
            routes = _bent(one.routes)
            return Act(a.shape, routes, (), a.unit or b.unit, losses)
    a, b = (_collapsed(draft, act, draft.where(eqn)) for act in (a, b))
    numbers, rows = channels.distinct([a.routes[0].ids, b.routes[0].ids], 2)
    name = draft.junction("product", len(rows), draft.where(eqn))
    _feed(draft, name, (*a.routes, *b.routes), rows)
    pool = max(a.routes[0].pool, b.routes[0].pool)
    return Act(a.shape, (Route(name, numbers, 1.0, False, pool),), (), False, losses)


def _power(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """Roots and powers: of parameters they stay products."""
    name, shape = eqn.primitive.name, tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    value = values[0]
    if isinstance(value, Known) and value.powers:
        exponent = {"sqrt": 0.5, "rsqrt": -0.5, "square": 2.0, "integer_pow": eqn.params.get("y")}
        by = float(exponent[name])  # type: ignore[arg-type]
        powers = tuple(power._replace(power=power.power * by) for power in value.powers)
        return [Known(shape, powers, value.scale**by)]
    if isinstance(value, Known):
        return [_opaque(values, shape)]
    return [_nonlinear(draft, eqn, values, shape)]


def _select(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """`select_n`: one or the other; which one is not a route."""
    shape = tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    cases = [_fit(value, shape) for value in values[1:]]
    if all(isinstance(case, Known) for case in cases):
        if isinstance(values[0], Act):
            return [_plain(values, shape)]
        return [_opaque(values, shape)]
    found = functools.reduce(lambda a, b: _added(draft, eqn, a, b, 0.0), cases)
    assert isinstance(found, Act)
    return [found._replace(routes=_bent(found.routes), gain=())]


def _mixed(draft: Draft, eqn: JaxprEqn, route: Route) -> Loss:
    return Loss(route.node, eqn.primitive.name, draft.where(eqn), "it mixes the channels")


def _reduce(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """A reduction keeps channels apart where there is one along its axes."""
    act = values[0]
    axes = eqn.params["axes"]
    shape = tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    if isinstance(act, Known):
        return [_opaque(values, shape)]
    kept = [axis for axis in range(len(act.shape)) if axis not in axes]
    count = math.prod(act.shape[axis] for axis in axes)
    sums = eqn.primitive.name == "reduce_sum"
    routes, losses = [], set(act.losses)
    for route in act.routes:
        if channels.constant(route.ids, axes):
            ids = channels.first(route.ids, axes)[
                tuple(slice(None) if axis in kept else 0 for axis in range(len(act.shape)))
            ]
            scale = route.scale * math.sqrt(count) if sums else route.scale
            routes.append(route._replace(ids=ids, scale=scale, linear=route.linear and sums))
        else:
            losses.add(_mixed(draft, eqn, route))
    unit = act.unit and not losses
    return [Act(shape, tuple(routes), (), unit, frozenset(losses))] * len(eqn.outvars)


def _window(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """Pooling, along axes with one channel each; a window of one moves data only."""
    params, act = eqn.params, values[0]
    shape = tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    if not isinstance(act, Act):
        return [_opaque(values, shape)]
    window = params["window_dimensions"]
    axes = [axis for axis, size in enumerate(window) if size > 1 or shape[axis] != act.shape[axis]]
    strides = params["window_strides"]
    losses = set(act.losses)
    routes = []
    sums = eqn.primitive.name == "reduce_window_sum"
    for route in act.routes:
        if not channels.constant(route.ids, axes):
            losses.add(_mixed(draft, eqn, route))
            continue
        scale = route.scale * math.sqrt(math.prod(window)) if sums else route.scale
        routes.append(
            route._replace(
                ids=channels.held(channels.first(route.ids, axes), shape),
                scale=scale,
                linear=route.linear and sums,
                pool=route.pool * max(strides),
            )
        )
    return [Act(shape, tuple(routes), (), act.unit, frozenset(losses))]


def _along(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """Cumulative sums and sorting, along an axis with one channel."""
    acts = [value for value in values if isinstance(value, Act)]
    axis = eqn.params.get("axis", eqn.params.get("dimension", 0))
    if all(_are_constant(act, [axis]) for act in acts) and len(values) == 1 and acts:
        return [_nonlinear(draft, eqn, values, acts[0].shape)]
    return _barrier(draft, eqn, values, "it mixes the channels")


def _concatenate(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    axis = eqn.params["dimension"]
    return [_join(values, axis, tuple(eqn.outvars[0].aval.shape))]  # type: ignore[attr-defined]


def _join(values: Sequence[Value], axis: int, shape: tuple[int, ...]) -> Value:
    acts = [value for value in values if isinstance(value, Act)]
    if not acts:
        return _opaque(values, shape)
    kinds: dict[tuple[Any, ...], None] = {}
    for act in acts:
        kinds |= dict.fromkeys((r.node, r.scale, r.linear, r.pool) for r in act.routes)
    routes = []
    for node, scale, linear, pool in kinds:
        parts = []
        for value in values:
            own = [
                route.ids
                for route in (value.routes if isinstance(value, Act) else ())
                if (route.node, route.scale, route.linear, route.pool)
                == (node, scale, linear, pool)
            ]
            parts.append(own[0] if own else channels.nothing(value.shape))
        routes.append(Route(node, channels.joined(parts, axis), scale, linear, pool))
    unit = any(act.unit for act in acts) and not routes
    return Act(shape, tuple(routes), (), unit, _losses(acts))


def _pad(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    act = values[0]
    shape = tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    if not isinstance(act, Act):
        return [_opaque(values, shape)]
    config = eqn.params["padding_config"]

    def padded(ids: np.ndarray) -> np.ndarray:
        for axis, (low, high, inner) in enumerate(config):
            if low == high == inner == 0:
                continue
            if ids.strides[axis] == 0 and channels.constant(ids, [axis]):
                size = list(ids.shape)
                size[axis] = shape[axis]
                ids = channels.held(channels.first(ids, [axis]), size)
                continue
            size = ids.shape[axis]
            full = np.full((size - 1) * (inner + 1) + 1 if size else 0, NONE)
            full[:: inner + 1] = np.arange(size)
            places = np.concatenate([np.full(max(low, 0), NONE), full, np.full(max(high, 0), NONE)])
            places = places[max(-low, 0) : len(places) - max(-high, 0)]
            taken = ids.take(np.maximum(places, 0), axis)
            keep = (places != NONE).reshape([-1 if i == axis else 1 for i in range(ids.ndim)])
            ids = np.where(keep, taken, NONE).astype(np.int32)
        return ids

    return [channels.moved(act, shape, padded, lambda view: None)]


def _part(value: Value, begin: Sequence[int], end: Sequence[int]) -> Value:
    """Return ``value[begin:end]``."""
    shape = tuple(stop - start for start, stop in zip(begin, end, strict=True))
    cut = tuple(map(slice, begin, end))
    return _move(
        value, shape, lambda ids: ids[cut],
        lambda view: views.cut(view, begin, end, [1] * len(begin)),
    )  # fmt: skip


def _split(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    axis, sizes = eqn.params["axis"], eqn.params["sizes"]
    value, found, start = values[0], [], 0
    for size in sizes:
        begin = [start if i == axis else 0 for i in range(len(value.shape))]
        end = [start + size if i == axis else full for i, full in enumerate(value.shape)]
        found.append(_part(value, begin, end))
        start += size
    return found


def _update(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """`dynamic_update_slice`, such as a cache's: what is written, where channels do not change."""
    operand, update, shape = values[0], values[1], values[0].shape
    if isinstance(operand, Known) and isinstance(update, Known):
        return [_opaque(values, shape)]
    free = [axis for axis, size in enumerate(update.shape) if size != shape[axis]]
    if isinstance(update, Act) and _are_constant(update, free):
        grown = channels.moved(
            update, shape, lambda ids: channels.held(channels.first(ids, free), shape),
            lambda view: None,
        )  # fmt: skip
        return [_added(draft, eqn, operand, grown, 0.0)]
    if isinstance(update, Known):
        return [operand]
    return _barrier(draft, eqn, values, "it writes into some of the channels")


def _barrier(draft: Draft, eqn: JaxprEqn, values: Sequence[Value], why: str) -> Sequence[Value]:
    """Lose all channels."""
    acts = [value for value in values if isinstance(value, Act)]
    nodes = dict.fromkeys(route.node for act in acts for route in act.routes)
    line, name = draft.where(eqn), eqn.primitive.name
    losses = _losses(acts) | {Loss(node, name, line, why) for node in nodes}
    if not nodes and any(isinstance(v, Known) and not v.is_constant for v in values) and acts:
        losses |= {Loss("", name, line, why)} if name not in _QUIET else set()
    return [
        Act(tuple(var.aval.shape), unit=True, losses=losses)  # type: ignore[attr-defined]
        for var in eqn.outvars
    ]


def _unread(draft: Draft, eqn: JaxprEqn, values: Sequence[Value], known: Known) -> Sequence[Value]:
    """Lose all channels at a kernel that is made of parameters in another way."""
    why = "its kernel is not just one parameter or a part of it, and is not in the graph"
    names = [leaf.removesuffix("/kernel") for leaf in sorted(views.leaves(known))]
    draft.report(Loss("", eqn.primitive.name, draft.where(eqn), why), names, names)
    return _barrier(draft, eqn, values, why)


_QUIET = frozenset(("random_bits", "random_wrap", "random_unwrap", "threefry2x32"))


def _dot(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    (contract, batch), (a, b) = eqn.params["dimension_numbers"], values
    shape = tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    if isinstance(a, Known) and isinstance(b, Known):
        return [_opaque(values, shape)]
    if isinstance(a, Act) and isinstance(b, Act):
        return [_contraction(draft, eqn, a, b, contract, batch, shape)]
    swapped = isinstance(a, Known)
    act, known = (b, a) if swapped else (a, b)
    assert isinstance(act, Act)
    assert isinstance(known, Known)
    act_in, known_in = contract[::-1] if swapped else contract
    act_batch, known_batch = batch[::-1] if swapped else batch
    act_free = [i for i in range(len(act.shape)) if i not in (*act_in, *act_batch)]
    known_free = [i for i in range(len(known.shape)) if i not in (*known_in, *known_batch)]
    view = known.kernel
    if known.is_constant and act.routes:
        if _are_constant(act, act_in):
            order = [*act_batch, *act_free]
            sizes = [1] * len(known_free)

            def through(ids: np.ndarray) -> np.ndarray:
                thin = channels.first(ids, act_in).transpose([*order, *act_in])
                thin = thin.reshape([*thin.shape[: len(order)]])
                parts = [thin.shape[: len(act_batch)], sizes, thin.shape[len(act_batch) :]]
                new = sum(map(tuple, parts if swapped else (parts[0], parts[2], parts[1])), ())
                return channels.held(thin.reshape(new), shape)

            return [channels.moved(act, shape, through, lambda view: None)]
        return _barrier(draft, eqn, values, "it mixes the channels by a constant matrix")
    if known.is_constant:
        return [act._replace(shape=shape, gain=())]
    node = None
    if view is not None and view.leaf in draft.kernels:
        roles = [(), tuple(known_in), tuple(known_batch), tuple(known_free)]
        node = _layer(draft, view, roles)
    if node is None:
        return _unread(draft, eqn, values, known)
    # Rows of the kernel, along the axes of the activation that they are paired with.
    rows = _paired(view, [*known_batch, *known_in], [*act_batch, *act_in], act.shape, known_batch)
    _into(draft, act, rows, node)
    start = len(act_batch) + (0 if swapped else len(act_free))
    places = [*range(len(act_batch)), *range(start, start + len(known_free))]
    return [_out_of(node, view, [*known_batch, *known_free], places, shape, known_batch)]


def _paired(
    view: View | None, axes: Sequence[int], at: Sequence[int], shape: tuple[int, ...],
    before: Sequence[int],
) -> np.ndarray:  # fmt: skip
    """Number a kernel's axes in the leaf's own order, those ``before`` first, along axes ``at``."""
    assert view is not None
    partner = dict(zip(axes, at, strict=True))
    order = _in_leaf(view, axes, before)
    return channels.numbered(
        shape, [partner[axis] for axis in order], [view.shape[axis] for axis in order]
    )


def _in_leaf(view: View, axes: Sequence[int], before: Sequence[int] = ()) -> list[int]:
    """Return axes in the leaf's own order, those ``before`` the others first."""
    return sorted(axes, key=lambda axis: (axis not in before, -view.strides[axis], axis))


def _out_of(
    node: str, view: View | None, axes: Sequence[int], at: Sequence[int], shape: tuple[int, ...],
    before: Sequence[int] = (),
) -> Act:  # fmt: skip
    return Act(shape, (Route(node, _paired(view, axes, at, shape, before)),))


def _into(draft: Draft, act: Act, rows: np.ndarray, node: str) -> None:
    """Lead an activation to a layer; ``rows`` numbers the layer's inputs."""
    draft.consume(act, node)
    draft.met.append((node, rows))
    if act.unit and act.routes:
        draft.connect(IDENTITY, node, np.zeros((0, 2), np.int32))
    for route in act.routes:
        _, pairs = channels.distinct([route.ids, rows], 1)
        draft.connect(route.node, node, pairs.astype(np.int32), route.scale)
        source = draft.nodes.get(draft.root(route.node))
        if source is not None and route.pool > 1:
            draft.nodes[source.name] = replace(source, pool=route.pool)


def _layer(
    draft: Draft, view: View, roles: Sequence[tuple[int, ...]], strides: int = 1, groups: int = 1
) -> str | None:
    """Return the name of the layer that a kernel is; None if it is no whole part of its leaf.

    Args:
      draft: where the layer is added, if it is new.
      view: the kernel.
      roles: its axes that are window, inputs, groups and outputs.
      strides, groups: of a convolution.
    """
    leaf = draft.shapes[view.leaf]
    axes = [axis for axis in range(len(view.shape)) if view.shape[axis] > 1]
    axes.sort(key=lambda axis: -view.strides[axis])
    size = 1
    for axis in reversed(axes):
        if view.strides[axis] != size:
            return None
        size *= view.shape[axis]
    if view.offset % size or size == 0:
        return None
    count = math.prod(leaf) // size
    place: tuple[int, ...] = ()
    if count > 1:
        lead = next((n for n in range(1, len(leaf) + 1) if math.prod(leaf[:n]) == count), None)
        if lead is None:
            return None
        place = tuple(int(i) for i in np.unravel_index(view.offset // size, leaf[:lead]))
    window, inputs, batch, outputs = (_in_leaf(view, role) for role in roles)
    order = [*window, *inputs, *batch, *outputs]
    dims = [view.shape[axis] for axis in order]
    n_window, n_in = len(window), len(inputs)
    shape = (
        *dims[:n_window],
        math.prod(dims[n_window : n_window + n_in]),
        math.prod(dims[n_window + n_in :]),
    )
    thin = [axis for axis in order if view.shape[axis] > 1]
    split = tuple(view.shape[axis] for axis in axes)
    permutation = tuple(axes.index(axis) for axis in thin)
    part = leaf[len(place) :]
    standard = part == shape and permutation == tuple(range(len(axes)))
    groups = max(groups, math.prod(view.shape[axis] for axis in batch))
    key = (view.leaf, place, () if standard else split, permutation, shape, groups)
    if key in draft.uses:
        return draft.uses[key]
    stem = view.leaf.removesuffix("/kernel").removesuffix("/embedding")
    name = stem + "".join(f"[{index}]" for index in place)
    reads = next((n.name for n in draft.nodes.values()
                  if (n.path, n.place) == (view.leaf, place)), "")  # fmt: skip
    if name in draft.nodes:
        name = f"{name} (read {sum(n.path == view.leaf for n in draft.nodes.values()) + 1})"
    draft.nodes[name] = Layer(
        name, view.leaf, shape, groups, (), strides, 1, place,
        () if standard else split, () if standard else permutation, reads,
    )  # fmt: skip
    draft.uses[key] = name
    return name


def _contraction(
    draft: Draft, eqn: JaxprEqn, a: Act, b: Act, contract: Any, batch: Any, shape: tuple[int, ...]
) -> Act:
    """Multiply activations: values by attention weights, or queries by keys."""
    line = draft.where(eqn)
    a, b = (_collapsed(draft, act, line) if len(act.routes) > 1 else act for act in (a, b))
    frees = [
        [i for i in range(len(act.shape)) if i not in (*contract[side], *batch[side])]
        for side, act in enumerate((a, b))
    ]
    n_batch = len(batch[0])
    at = [
        [*range(n_batch), *range(n_batch, n_batch + len(frees[0]))],
        [*range(n_batch), *range(n_batch + len(frees[0]), len(shape))],
    ]
    varies = [
        bool(act.routes) and not channels.constant(act.routes[0].ids, contract[side])
        for side, act in enumerate((a, b))
    ]
    losses = a.losses | b.losses
    if all(varies):
        full = (*shape, *(a.shape[axis] for axis in contract[0]))
        n = len(shape)
        inner = list(range(n, len(full)))
        columns = []
        for side, act in enumerate((a, b)):
            order = [*batch[side], *frees[side], *contract[side]]
            ids = act.routes[0].ids.transpose(order)
            columns.append(channels.broadcast(ids, full, [*at[side], *inner]))
        _, rows = channels.distinct(columns, 2)
        name = draft.junction("product", len(rows), line)
        _feed(draft, name, (*a.routes, *b.routes), rows)
        draft.connect(name, IDENTITY, np.zeros((0, 2), np.int32))
        return Act(shape, (), (), False, losses)
    kept = []
    for side, act in enumerate((a, b)):
        if not act.routes:
            continue
        route = act.routes[0]
        if varies[side]:
            why = "it mixes the channels by weights that depend on the data"
            losses |= {Loss(route.node, eqn.primitive.name, line, why)}
            continue
        thin = channels.first(route.ids, contract[side])
        thin = thin.transpose([*batch[side], *frees[side], *contract[side]])
        thin = thin.reshape(thin.shape[: len(at[side])])
        sizes = [act.shape[axis] for axis in (*batch[side], *frees[side])]
        full_ids = channels.broadcast(channels.held(thin, sizes), shape, at[side])
        kept.append(Act(shape, (route._replace(ids=full_ids, linear=False),)))
    if not kept:
        return Act(shape, (), (), a.unit or b.unit, losses)
    if len(kept) == 1:
        return kept[0]._replace(losses=losses)
    return _product(draft, eqn, *kept)._replace(losses=losses)


def _conv(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    params, (act, known) = eqn.params, values
    shape = tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    if isinstance(act, Known) and isinstance(known, Known):
        return [_opaque(values, shape)]
    if not isinstance(act, Act) or not isinstance(known, Known):
        return _barrier(draft, eqn, values, "the kernel depends on the data")
    dims = params["dimension_numbers"]
    (_, feature, *spatial), (out, into, *window) = dims.lhs_spec, dims.rhs_spec
    groups = params["feature_group_count"]
    mixed = not _are_constant(act, spatial)
    if known.is_constant and not mixed and groups == act.shape[feature]:  # a fixed blur

        def blurred(ids: np.ndarray) -> np.ndarray:
            thin = channels.first(ids, spatial)
            thin = np.repeat(thin, shape[dims.out_spec[1]] // act.shape[feature], feature)
            order = np.argsort([dims.out_spec[dims.lhs_spec.index(i)] for i in range(ids.ndim)])
            return channels.held(thin.transpose(order), shape)

        return [channels.moved(act, shape, blurred, lambda view: None)]
    view = known.kernel
    if view is None or view.leaf not in draft.kernels or params["batch_group_count"] != 1:
        return _unread(draft, eqn, values, known)
    node = _layer(
        draft, view, [tuple(window), (into,), (), (out,)], max(params["window_strides"], default=1),
        groups,
    )  # fmt: skip
    if node is None:
        return _unread(draft, eqn, values, known)
    if max(params["rhs_dilation"], default=1) > 1 or len(set(params["window_strides"])) > 1:
        draft.nodes[node] = replace(draft.nodes[node], strides=0)
    rows = channels.numbered(act.shape, [feature], [act.shape[feature]])
    _into(draft, act, rows, node)
    ids = channels.numbered(shape, [dims.out_spec[1]], [shape[dims.out_spec[1]]])
    return [Act(shape, (Route(node, ids),))]


def _gather(draft: Draft, eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    """A lookup in a table of parameters is a layer that reads one-hot inputs."""
    table, index = values
    shape = tuple(eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]
    if isinstance(table, Act):
        movement = _movement(eqn, values)
        if movement is None:
            return _barrier(draft, eqn, values, "it takes channels by an index from the data")
        moved = _move(table, shape, *movement)
        assert isinstance(moved, Act)
        return [moved._replace(losses=moved.losses | _losses([index]))]
    if isinstance(index, Known):
        return [_opaque(values, shape)]
    dims, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    view = table.kernel
    looked = tuple(dims.collapsed_slice_dims)
    rest = [axis for axis in range(len(table.shape)) if axis not in looked]
    whole = all(sizes[axis] == table.shape[axis] for axis in rest) and looked
    if view is None or not whole or view.leaf not in draft.kernels or dims.operand_batching_dims:
        return _barrier(draft, eqn, values, "parameters are taken by an index from the data")
    node = _layer(draft, view, [(), looked, (), tuple(rest)])
    if node is None:
        return _barrier(draft, eqn, values, "the table is not a part of one parameter")
    draft.consume(index, node)
    draft.met.append((node, None))
    return [_out_of(node, view, rest, dims.offset_dims, shape)]


def _scan(
    draft: Draft, eqn: JaxprEqn, values: list[Value], run: Callable[..., Any]
) -> Sequence[Value]:
    """Stacked layers are read one by one; over time, the carry is a barrier."""
    params = eqn.params
    body, n_consts, n_carry = loop_of(eqn)
    length = params["length"]
    consts, carry = values[:n_consts], list(values[n_consts : n_consts + n_carry])
    over = values[n_consts + n_carry :]
    shapes = [tuple(var.aval.shape) for var in body.outvars]  # type: ignore[attr-defined]
    if any(map(is_stacked, over)):
        return unrolled(eqn, values, run, at_step, stacked_up)
    why = "what a loop carries from one step to the next is not followed"
    lost = Loss("", "scan", draft.where(eqn), why)
    first = [
        value._replace(losses=value.losses | {lost}, unit=True, routes=())
        if isinstance(value, Act)
        else Act(value.shape, unit=True, losses=frozenset([lost]))
        if shapes[place] and _changes(value, body, place, n_consts)
        else value
        for place, value in enumerate(carry)
    ]
    draft.lose(lost, carry)
    found = run([*consts, *first, *(_any(value) for value in over)])
    draft.lose(lost, found[:n_carry])
    return [*found[:n_carry], *(_repeated(part, length) for part in found[n_carry:])]


def _repeated(value: Value, length: int) -> Value:
    shape = (length, *value.shape)
    axes = range(1, len(shape))
    return _move(
        value, shape, lambda ids: channels.broadcast(ids, shape, axes), lambda view: None
    )  # fmt: skip


def is_stacked(value: Value) -> bool:
    """Return whether a value that a scan goes over holds parameters."""
    return isinstance(value, Known) and not value.is_constant


def unrolled(
    eqn: JaxprEqn, values: Sequence[Any], run: Callable[[list[Any]], list[Any]],
    at: Callable[[Any, int], Any], stack: Callable[[Sequence[Any]], Any],
) -> list[Any]:  # fmt: skip
    """Read a scan step by step.

    Args:
      eqn, values: the scan and what goes in.
      run: reads its body.
      at: gives one step's part of a value.
      stack: puts the results of all steps together.
    """
    params = eqn.params
    _, n_consts, n_carry = loop_of(eqn)
    length = params["length"]
    consts, carry = values[:n_consts], list(values[n_consts : n_consts + n_carry])
    over, outs = values[n_consts + n_carry :], []
    for step in range(length)[:: -1 if params["reverse"] else 1]:
        found = run([*consts, *carry, *(at(value, step) for value in over)])
        carry = found[:n_carry]
        outs.append(found[n_carry:])
    if params["reverse"]:
        outs.reverse()
    return [*carry, *(stack(parts) for parts in zip(*outs, strict=True))]


def stacked_up(parts: Sequence[Value]) -> Value:
    """Return the results of all steps of a scan as one."""
    shape = (len(parts), *parts[0].shape)
    return _join([_lifted(part) for part in parts], 0, shape)


def _changes(value: Known, body: Jaxpr, place: int, n_consts: int) -> bool:
    """Return whether a loop gives a carried constant another value."""
    return bool(body.outvars[place] is not body.invars[n_consts + place])


def at_step(value: Value, step: int) -> Value:
    """Return one step's part of what a scan goes over."""
    shape = value.shape[1:]
    if isinstance(value, Known) and value.is_constant:
        compute = value.compute
        if compute is None:
            return Known(shape, (), value.scale)
        return Known(shape, (), value.scale, lambda: np.asarray(compute())[step])
    size = len(value.shape)

    def view_at(view: View) -> View | None:
        begin = [step] + [0] * (size - 1)
        end = [step + 1, *view.shape[1:]]
        return views.reshape(views.cut(view, begin, end, [1] * size), shape)

    return _move(value, shape, lambda ids: ids[step], view_at)


def _any(value: Value) -> Value:
    """Return the part of what a scan goes over, whichever step's it is."""
    if isinstance(value, Known):
        return Known(value.shape[1:], value.powers, value.scale)
    kept = tuple(route for route in value.routes if channels.constant(route.ids, [0]))
    lost = frozenset(
        Loss(route.node, "scan", "", "a loop goes over the channels")
        for route in value.routes
        if not channels.constant(route.ids, [0])
    )
    routes = tuple(route._replace(ids=route.ids[0]) for route in kept)
    return Act(value.shape[1:], routes, (), value.unit or bool(lost), value.losses | lost)


def _lifted(value: Value) -> Value:
    shape = (1, *value.shape)
    return _move(
        value, shape, lambda ids: channels.reshaped(ids, shape),
        lambda view: views.reshape(view, shape),
    )  # fmt: skip


_RULES: dict[str, Callable[[Draft, JaxprEqn, list[Value]], Sequence[Value]]] = {
    "add": _add,
    "sub": _add,
    "add_any": _add,
    "mul": _mul,
    "div": _mul,
    "select_n": _select,
    "concatenate": _concatenate,
    "pad": _pad,
    "split": _split,
    "dynamic_update_slice": _update,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "gather": _gather,
    **dict.fromkeys(("sqrt", "rsqrt", "square", "integer_pow"), _power),
    **dict.fromkeys(REDUCTION, _reduce),
    **dict.fromkeys(WINDOW, _window),
    **dict.fromkeys((*ALONG, "sort"), _along),
}
