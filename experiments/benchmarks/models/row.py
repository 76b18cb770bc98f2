"""What is found of one model: a row of the table."""

from __future__ import annotations

import hashlib
import importlib.util
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks.models.claims import judge
from experiments.benchmarks.models.example import Example, count_of, leaves_by_path, stirred
from experiments.benchmarks.models.oracle import reached
from lap_jax import Graph, lookahead_masks, trace

SPARSITY = 0.5
SHOWN = 160
"""Characters of an error."""
LIMIT = 300.0
"""Seconds of CPU that a row may take."""


class Entry(NamedTuple):
    """A model that can be tried.

    Attributes:
      library: the package's name, as one installs it; of a checkout the repository's.
      model, dtype: what is built.
      build: builds it.
      package: what is imported; empty: nothing beside what the experiments need.
      folder: of a checkout; None: there is none, or it was not given.
      weightless: whether there are only shapes, so that it is traced and no more.
    """

    library: str
    model: str
    dtype: str
    build: Callable[[], Example]
    package: str = ""
    folder: str | None = None
    weightless: bool = False

    @property
    def name(self) -> str:
        """What ``--only`` matches."""
        return f"{self.library}/{self.model}/{self.dtype}"

    def about(self, versions: dict[str, str]) -> dict[str, Any]:
        """Return what every row says of the entry, whatever is found."""
        return {"library": self.library, "model": self.model, "dtype": self.dtype,
                "versions": versions}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What is found of a model.

    Attributes:
      library, model, dtype: of the entry.
      versions: of the library and of JAX; of `lap_jax` and the benchmark digests of their files.
      parameters: how many.
      layers: of the graph.
      kernels: leaves that they are.
      unread: weights that are no layers, with the reason: `Graph.unread`.
      others: how many more leaves of two axes or more that lists: biases, scales, positions.
      unsaid: floating leaves of two axes or more that are no layers and not listed.
      lost: leaves that the oracle sees meet an activation as kernels do, in whole or in part.
      barriers: of the graph.
      graph: a digest of it.
      same: whether it is that of the row in float32, whose edges and masks are then taken for
        checked, and whose ``lost`` and ``differ`` are its own.
      edges, agree, stopped, differ: see `Verdict`; no edges where the oracle was not asked.
      trace, first, later, oracle: seconds of CPU, which other work on the machine does not add to.
      error: in one line; empty if all went well.
      missing: what is to be installed or given for this row; then nothing is known.
    """

    library: str
    model: str
    dtype: str
    versions: dict[str, str]
    parameters: int = 0
    layers: int = 0
    kernels: int = 0
    unread: tuple[str, ...] = ()
    others: int = 0
    unsaid: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    barriers: tuple[str, ...] = ()
    graph: str = ""
    same: bool = False
    edges: int = 0
    agree: int = 0
    stopped: int = 0
    differ: tuple[str, ...] = ()
    trace: float = 0.0
    first: float = 0.0
    later: float = 0.0
    oracle: float = 0.0
    error: str = ""
    missing: str = ""

    @property
    def seconds(self) -> float:
        """From trace to masks."""
        return self.trace + self.first


def missing(entry: Entry) -> str:
    """Return what is to be installed or given for an entry; empty if it can be built."""
    if entry.folder == "":
        return f"give the folder of a checkout of {entry.library}"
    if entry.package and importlib.util.find_spec(entry.package) is None:
        return f"{entry.package} is not installed"
    return ""


def found(
    entry: Entry, versions: dict[str, str], look: bool = True, limit: float = LIMIT,
    like: Row | None = None,
) -> Row:  # fmt: skip
    """Build a model, trace it, make its masks and ask the oracle.

    Args:
      entry: the model.
      versions: what the row says of them.
      look: whether to ask the oracle.
      limit: seconds of CPU after which the row ends with what is known by then.
      like: of the same model in float32: where the graphs are equal, the masks are, too, and all
        that the oracle would see.
    """
    about = entry.about(versions)
    absent = missing(entry)
    if absent:
        return Row(**about, missing=absent)
    jax.clear_caches()  # or a model would find its programs compiled by the one before
    stage = "cannot be built"
    try:
        with at_most(limit):
            example = entry.build()
            leaves = leaves_by_path(example.variables)
            about["parameters"] = count_of(leaves)
            stage = "trace"
            start = time.process_time()
            graph = trace(example.function, example.variables, *example.inputs)
            about["trace"] = time.process_time() - start
            about |= _of_graph(graph, leaves)
            if like is not None and not like.error and like.graph == about["graph"]:
                about |= {"same": True, "lost": like.lost, "differ": like.differ}
            elif not entry.weightless:
                stage = "masks"
                about["first"], about["later"] = (_masks(example, graph) for _ in range(2))
                if look:
                    stage = "oracle"
                    about |= _judged(example, graph, leaves)
    except Exception as error:
        return Row(**about, error=f"{stage}: {line(error)}")
    return Row(**about)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` where more of the CPU is used, between two steps of Python."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds:.0f} s of CPU")

    before = signal.signal(signal.SIGPROF, stop)
    # Again every second: raised inside of a destructor or a callback, it would be ignored.
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _of_graph(graph: Graph, leaves: dict[str, Any]) -> dict[str, Any]:
    kernels = {layer.path for layer in graph.layers}
    said = kernels | {each.path for each in graph.unread}
    floating = [
        path for path, leaf in leaves.items()
        if jnp.ndim(leaf) >= 2 and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    ]  # fmt: skip
    return {
        "layers": len(graph.layers),
        "kernels": len(kernels),
        "unread": tuple(f"{each.path}: {each.why}" for each in graph.unread if each.is_weight),
        "others": sum(not each.is_weight for each in graph.unread),
        "unsaid": tuple(path for path in floating if path not in said),
        "barriers": tuple(f"{stop.primitive}: {stop.why}" for stop in graph.barriers),
        "graph": _digest(graph, leaves),
    }


def _digest(graph: Graph, leaves: dict[str, Any]) -> str:
    """Return a short digest of a graph, and of the dtypes of the kernels.

    Without the scales of edges, and with epsilons as they are rounded in bfloat16.
    """
    edges = [(edge.source, edge.target, edge.positions, edge.offset,
              None if edge.pairs is None else edge.pairs.values.tobytes())
             for edge in graph.edges]  # fmt: skip
    parts: list[Any] = [*graph.layers, *graph.junctions]
    factors = [(part.name, factor.path, factor.power, f"{factor.shift:.1e}",
                None if factor.entries is None else factor.entries.values.tobytes())
               for part in parts for factor in part.factors]  # fmt: skip
    layers = [(layer.name, layer.path, layer.shape, layer.groups, layer.strides, layer.pool,
               layer.place, layer.split, layer.order, str(jnp.result_type(leaves[layer.path])))
              for layer in graph.layers]  # fmt: skip
    junctions = [(part.name, part.size, part.kind) for part in graph.junctions]
    text = repr((layers, edges, junctions, factors, sorted(graph.returned)))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _masks(example: Example, graph: Graph) -> float:
    start = time.process_time()
    jax.block_until_ready(lookahead_masks(example.variables, graph, SPARSITY))
    return time.process_time() - start


def _judged(example: Example, graph: Graph, leaves: dict[str, Any]) -> dict[str, Any]:
    start = time.process_time()
    variables = stirred(example.variables)
    arrays, structure = jax.tree.flatten(variables)
    inputs, given = jax.tree.flatten(example.inputs)

    def model(arrays: Any, inputs: Any) -> Any:
        return example.function(
            jax.tree.unflatten(structure, arrays), *jax.tree.unflatten(given, inputs)
        )

    verdict = judge(graph, reached(jax.make_jaxpr(model)(arrays, inputs), arrays, inputs), leaves)
    return verdict._asdict() | {"oracle": time.process_time() - start}


def line(error: Exception) -> str:
    """Return an error in one line."""
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
