"""The declared chain: one way to write a graph of layers."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.errors import PruningError
from lap_jax.graph import layers as kinds
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import IDENTITY, Edge, Factor, Junction, Layer, Norm, nearest
from lap_jax.integers import whole_number
from lap_jax.paths import is_array, leaves_by_path, shapes_by_path

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class LayerSpec:
    """A layer as declared in a chain; what is None is inferred.

    Attributes:
      kernel: path of the kernel, or of the module that holds it as ``kernel``.
      norm: the norm after the layer (before the next kernel).
      previous: the layers whose outputs it reads, `IDENTITY` among them for a branch that brings
        the input unchanged. None: the layer before it in the chain. Several layers of its input
        size are summed; several whose sizes add up to its input size are concatenated, in order.
      next: the layers that read its output, or `IDENTITY`. None: whoever names it.
      groups: of a convolution (``feature_group_count``). None: from the shapes.
      flatten: positions that a flatten before this dense layer puts in a row, channels varying
        fastest. None: after a convolution, from the shapes.
      strides: of a convolution. Eq. 5 and 9 do not depend on it.
      pool: window of the pooling after the layer. Eq. 5 and 9 do not depend on it.
    """

    kernel: str
    norm: str | Norm | None = None
    previous: str | Sequence[str] | None = None
    next: str | Sequence[str] | None = None
    groups: int | None = None
    flatten: int | None = None
    strides: int = 1
    pool: int = 1


def chain(
    params: Any, layers: Sequence[str | Norm | LayerSpec], batch_stats: Any | None = None
) -> Graph:
    """Read a declared chain against a parameter tree.

    An entry is a layer, or a norm that belongs to the layer before it. A string is either: the path
    of a kernel, the path of a module with a ``kernel`` or a single array of two axes or more, or
    the path of a norm. Each layer feeds the
    one after it, unless they say otherwise (`LayerSpec`). Flattening, groups, sums and
    concatenations are inferred from the shapes. Kernels are taken to be ``(*window, in, out)``, as
    Flax and haiku have them: of square ones in another order nothing could tell, so that kernels of
    PyTorch's or Equinox's order are to be read by `trace` alone.

    Args:
      params: the tree of parameters (dict, FrozenDict, ``nnx.State``, ...); only shapes and dtypes
        are read, so ``jax.ShapeDtypeStruct`` leaves do.
      layers: the declaration, first layer first.
      batch_stats: running statistics; needed here only to find a batch norm without parameters.

    Returns:
      The graph.

    Raises:
      PruningError: if the chain is empty, a path is unknown, a layer is named twice, a kernel is
        not real floating point or has no weights, two neighbours' shapes do not connect, or a
        number of a layer or norm is none that it can have.

    Example:
      >>> import numpy as np
      >>> params = {"a": {"kernel": np.ones((4, 3))}, "b": {"kernel": np.ones((3, 2))}}
      >>> print(chain(params, ["a", "b"]))
      layer  kernel    shape  in  out  norm  previous  next
      -----  --------  -----  --  ---  ----  --------  ----
      a      a/kernel  4x3     4    3  -     -         b
      b      b/kernel  3x2     3    2  -     a         -
    """
    equinox = sys.modules.get("equinox")
    if equinox is not None and isinstance(params, equinox.Module):
        raise PruningError(
            f"{type(params).__name__} is a module of Equinox, whose kernels are (out, in) where a "
            "chain expects (in, out): read the graph from the model, trace(model, x)"
        )
    if isinstance(layers, (str, Norm, LayerSpec)):
        layers = [layers]
    leaves = leaves_by_path(params)
    known = {**leaves_by_path(batch_stats), **leaves}
    declared: list[LayerSpec] = []
    for entry in layers:
        layer = _read_entry(entry, leaves, known)
        if isinstance(layer, LayerSpec):
            declared.append(layer)
            continue
        if not declared:
            raise PruningError(f"norm {layer.path!r} comes before any layer: name its layer first")
        if declared[-1].norm is not None:
            raise PruningError(
                f"layer {_name(declared[-1].kernel)!r} has two norms, "
                f"{_norm(declared[-1].norm).path!r} and {layer.path!r}: keep one"
            )
        declared[-1] = replace(declared[-1], norm=layer)
    if not declared:
        raise PruningError("the chain is empty: name at least one layer, such as ['Dense_0']")

    names = [_name(layer.kernel) for layer in declared]
    for name in names:
        if names.count(name) > 1:
            raise PruningError(f"layer {name!r} is named twice in the chain: name it once")
    shapes = {
        name: _kernel_shape(name, leaves[layer.kernel])
        for name, layer in zip(names, declared, strict=True)
    }
    for name, layer in zip(names, declared, strict=True):
        _check_numbers(name, layer, shapes[name])
    edges: list[Edge] = []
    built: list[Layer] = []
    shared: list[kinds.Shared] = []
    links = _links(names, declared)
    for name, layer in zip(names, declared, strict=True):
        sources = [source for source, target in links if target == name]
        edges_in, groups = _connect(name, layer, sources, shapes)
        factors = _factors(name, shapes[name][-1], layer.norm, known)
        built.append(
            Layer(name, layer.kernel, shapes[name], groups, factors, layer.strides, layer.pool)
        )
        edges += edges_in
        shared += kinds.added_to(
            built[-1], None if layer.norm is None else _norm(layer.norm).path, known
        )
    edges += [Edge(source, IDENTITY) for source, target in links if target == IDENTITY]
    return Graph(tuple(built), tuple(edges), shared=tuple(shared))


def as_graph(
    params: Any, chain_or_graph: Graph | Sequence[str | Norm | LayerSpec], batch_stats: Any | None
) -> Graph:
    """Return a graph that fits ``params``: a declaration is read, a graph is checked.

    Raises:
      PruningError: as `chain`; or if the graph names a kernel that ``params`` lacks or holds in
        another shape.
    """
    if not isinstance(chain_or_graph, Graph):
        return chain(params, chain_or_graph, batch_stats)
    leaves = leaves_by_path(params)
    check_fits(chain_or_graph, shapes_by_path(params))
    for layer in chain_or_graph.layers:
        _kernel_shape(layer.name, leaves[layer.path])
    return chain_or_graph


def check_fits(graph: Graph, shapes: Mapping[str, tuple[int, ...]], tree: str = "params") -> None:
    """Refuse a graph of other parameters.

    Args:
      graph: any.
      shapes: of the leaves of the parameters, or of masks, by path.
      tree: what an error calls them.

    Raises:
      PruningError: if the graph names a kernel that is not there, or is there in another shape.
    """
    for layer in graph.layers:
        if layer.path not in shapes:
            _unknown_path(layer.path, shapes, tree)
        if not fits(layer, shapes[layer.path]):
            raise PruningError(
                f"layer {layer.name!r} has shape {shapes[layer.path]} in {tree} and {layer.shape} "
                f"in the graph: build the graph from these {tree}"
            )


def fits(layer: Layer, shape: tuple[int, ...]) -> bool:
    """Return whether a layer can be the kernel, or a part of it, of a leaf of this shape."""
    if not layer.split:
        return shape[len(layer.place) :] == layer.shape
    return math.prod(shape[len(layer.place) :]) == layer.size


def norm_tensors(graph: Graph, params: Any, batch_stats: Any | None) -> dict[str, dict[str, Any]]:
    """Collect the leaves of all factors: ``{layer or junction: {path: leaf}}``.

    Raises:
      PruningError: for a leaf that neither tree holds, such as a batch norm's running variance.
    """
    known = {**leaves_by_path(params), **leaves_by_path(batch_stats)}
    leaves: dict[str, dict[str, Any]] = {}
    for part in graph.parts.values():
        for factor in part.factors:
            if factor.path not in known:
                raise _missing(part, factor)
            leaves.setdefault(part.name, {})[factor.path] = known[factor.path]
    return leaves


def _missing(part: Layer | Junction, factor: Factor) -> PruningError:
    if isinstance(part, Layer) and factor.power != 1:
        stem = factor.path.rpartition("/")[0]
        return PruningError(
            f"norm {stem!r} after layer {part.name!r}: batch_stats has no {factor.path!r}; pass "
            "batch_stats=variables['batch_stats'] (or nnx.state(model, nnx.BatchStat)), or, for a "
            f"norm without running statistics, declare Norm({stem!r}, statistics=False)"
        )
    return PruningError(
        f"{part.name!r} of the graph is multiplied by {factor.path!r}, which neither params nor "
        "batch_stats holds: pass the trees that the graph was made from"
    )


def _read_entry(
    entry: str | Norm | LayerSpec, leaves: Mapping[str, Any], known: Mapping[str, Any]
) -> LayerSpec | Norm:
    """Resolve the paths of one entry; a string becomes the layer or the norm that it names."""
    if isinstance(entry, Norm):
        if not _is_norm(_norm(entry).path, known):
            _unknown_path(entry.path, known)
        return entry
    if isinstance(entry, LayerSpec):
        if entry.norm is not None and not _is_norm(_norm(entry.norm).path, known):
            _unknown_path(_norm(entry.norm).path, known)
        path = entry.kernel
        if not isinstance(path, str):
            raise PruningError(f"a LayerSpec names its kernel by a path; found {path!r}")
    elif isinstance(entry, str):
        path = entry
    else:
        raise PruningError(f"a chain holds strings, LayerSpec and Norm; found {entry!r}")
    candidate = _kernel_at(path, leaves)
    if candidate is not None:
        return replace(entry if isinstance(entry, LayerSpec) else LayerSpec(path), kernel=candidate)
    if isinstance(entry, str) and _is_norm(path, known):
        return Norm(path)
    _unknown_path(path, known)


def _kernel_at(path: str, leaves: Mapping[str, Any]) -> str | None:
    """Return the path of the kernel that a path names: itself, or a module's only one."""
    path = path if path in leaves else path.removeprefix("params/")
    for candidate in (f"{path}/kernel", path):
        if candidate in leaves:
            return candidate
    inside = [name for name, leaf in leaves.items()
              if name.startswith(f"{path}/") and is_array(leaf) and float_kernel(leaf)]  # fmt: skip
    return inside[0] if len(inside) == 1 else None


def _norm(norm: str | Norm) -> Norm:
    found = Norm(norm) if isinstance(norm, str) else norm
    if not isinstance(found, Norm) or not isinstance(found.path, str):
        raise PruningError(f"a norm is declared by its path or as Norm(path); found {norm!r}")
    return found


def _name(kernel_path: str) -> str:
    return kernel_path.removesuffix("/kernel").removesuffix("/embedding")


def _is_norm(path: str, known: Mapping[str, Any]) -> bool:
    if f"{path}/kernel" in known:
        return False
    return any(f"{path}/{part}" in known for part in ("scale", "bias", "mean", "var"))


def float_kernel(leaf: Any) -> bool:
    """Return whether an array can be pruned: real floating point, of two axes or more."""
    return len(jnp.shape(leaf)) > 1 and str(leaf.dtype) in _FLOATS


def _kernel_shape(name: str, kernel: Any) -> tuple[int, ...]:
    """Check that an array can be pruned and return its shape."""
    shape, dtype = tuple(jnp.shape(kernel)), jax.dtypes.canonicalize_dtype(kernel.dtype)
    if dtype.name not in _FLOATS:
        raise PruningError(
            f"layer {name!r} has a kernel of dtype {dtype}: expected float16, bfloat16, float32 or "
            "float64"
        )
    if len(shape) < 2:
        raise PruningError(
            f"layer {name!r} has a kernel of shape {shape}: expected (*window, in, out); "
            "leave it out of the chain"
        )
    if math.prod(shape) == 0:
        raise PruningError(f"layer {name!r} has a kernel of shape {shape}, which holds no weights")
    return shape


def _check_numbers(name: str, layer: LayerSpec, shape: tuple[int, ...]) -> None:
    """Refuse numbers that no layer has, or that no kernel of this shape has."""
    for field in ("strides", "pool", "groups", "flatten"):
        value = getattr(layer, field)
        if value is None and field in ("groups", "flatten"):
            continue
        whole_number(f"{field} of layer {name!r}", value, least=1)
        dense = len(shape) == 2
        if value > 1 and field in (("strides", "groups") if dense else ("flatten",)):
            kind, other = (
                ("dense layer", "convolution") if dense else ("convolution", "dense layer")
            )
            raise PruningError(
                f"layer {name!r} has {field}={value}, which a {other} has, but its kernel of shape "
                f"{shape} is that of a {kind}: leave {field} out, or name the layer it belongs to"
            )


def _links(names: Sequence[str], declared: Sequence[LayerSpec]) -> list[tuple[str, str]]:
    """Pairs (source, target), in the order of declaration, each once."""
    links: dict[tuple[str, str], None] = {}
    for index, (name, layer) in enumerate(zip(names, declared, strict=True)):
        if layer.previous is not None:
            for source in _as_names(layer.previous, name, "previous"):
                links[_known(source, name, "previous", names), name] = None
        elif index and declared[index - 1].next is None:
            links[names[index - 1], name] = None
        if layer.next is not None:
            for target in _as_names(layer.next, name, "next"):
                links[name, _known(target, name, "next", names)] = None
    return list(links)


def _as_names(value: str | Sequence[str], name: str, field: str) -> tuple[str, ...]:
    several = isinstance(value, Iterable) and not isinstance(value, str)
    names: tuple[Any, ...] = tuple(value) if several else (value,)
    if not all(isinstance(each, str) for each in names):
        raise PruningError(
            f"layer {name!r} has {field}={value!r}: expected the name of a layer, or several"
        )
    return names


def _known(value: str, name: str, field: str, names: Sequence[str]) -> str:
    neighbour = value if value == IDENTITY else _name(value)
    if neighbour != IDENTITY and neighbour not in names:
        raise PruningError(
            f"layer {name!r} names {value!r} as {field}, which is not in the chain"
            f"{nearest(neighbour, names)}"
        )
    if neighbour == name:
        raise PruningError(f"layer {name!r} names itself as {field}: name its neighbour")
    return neighbour


def _connect(
    name: str, layer: LayerSpec, sources: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[Edge], int]:
    """Infer flatten, groups, sum or concatenation from the shapes: the edges in, and the groups.

    Where the shapes allow a sum and a concatenation, it is a sum.
    """
    shape = shapes[name]
    identity = [Edge(IDENTITY, name)] if IDENTITY in sources else []
    layers = [source for source in sources if source != IDENTITY]
    sizes = [shapes[source][-1] for source in layers]
    if layer.groups is not None and shape[-1] % layer.groups:
        raise PruningError(
            f"layer {name!r} has groups={layer.groups} and kernel shape {shape}: groups must "
            "divide its output size"
        )
    if not layers:
        return identity, layer.groups or 1

    from_conv = all(len(shapes[source]) > 2 for source in layers)
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    readings = [(sizes[0], [0] * len(sizes))] if len(set(sizes)) == 1 else []
    for width, starts in [*readings, (sum(sizes), offsets)]:
        fit = _positions_and_groups(layer, shape, width, from_conv)
        if fit is not None:
            positions, groups = fit
            pairs = zip(layers, starts, strict=True)
            return [
                Edge(source, name, positions, start) for source, start in pairs
            ] + identity, groups
    fed_by = " and ".join(f"{source!r} of shape {shapes[source]}" for source in layers)
    raise PruningError(
        f"layer {name!r} of shape {shape} does not connect to {fed_by}: it reads "
        f"{shape[-2]} inputs, they give {' and '.join(map(str, sizes))}; "
        "mend the order of the chain, or name previous=, groups= or flatten="
    )


def _positions_and_groups(
    layer: LayerSpec, shape: tuple[int, ...], width: int, from_conv: bool
) -> tuple[int, int] | None:
    """How a kernel reads ``width`` channels: (flattened positions, groups); None if it cannot."""
    kernel_in = shape[-2]
    if len(shape) > 2:
        groups = width // kernel_in
        fits = groups * kernel_in == width > 0 and shape[-1] % groups == 0
        return (1, groups) if fits and layer.groups in (None, groups) else None
    positions = kernel_in // width
    allowed = layer.flatten == positions if layer.flatten else positions == 1 or from_conv
    return (positions, 1) if positions * width == kernel_in and allowed else None


def _factors(
    name: str, size: int, norm: str | Norm | None, known: Mapping[str, Any]
) -> tuple[Factor, ...]:
    """Return what a declared norm multiplies a layer's outputs by; an absent scale is left out."""
    if norm is None:
        return ()
    norm = _norm(norm)
    if not isinstance(norm.epsilon, (int, float, np.number)) or not 0 <= norm.epsilon < math.inf:
        raise PruningError(
            f"norm {norm.path!r} after layer {name!r} has epsilon {norm.epsilon!r}: expected a "
            "finite number of 0 or more, such as 1e-5"
        )
    # A variance may come later, with the call that needs it.
    factors = tuple(part for part in norm.factors if part.power != 1 or part.path in known)
    for part in factors:
        leaf = known.get(part.path)
        if leaf is not None and jnp.shape(leaf) != (size,):
            raise PruningError(
                f"norm {norm.path!r} has {part.path.removeprefix(norm.path + '/')} of shape "
                f"{jnp.shape(leaf)}, but layer {name!r} before it has {size} outputs: name the "
                "norm after its own layer"
            )
    return factors


def _unknown_path(path: str, known: Mapping[str, Any], tree: str = "params") -> NoReturn:
    modules = [name.rpartition("/")[0] or name for name in known]
    hint = nearest(_name(path), modules) or f"; there are: {', '.join(map(repr, known))}"
    raise PruningError(f"no layer or norm {path!r} in {tree}{hint}")
