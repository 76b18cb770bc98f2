"""What a checkpoint holds, layer by layer, and what there is to know of a model's graph."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax import Graph, PruningError, Small, Summary, shrink, trace
from lap_jax.cli.checkpoints import Checkpoint
from lap_jax.cli.errors import BadInput
from lap_jax.cli.findings import Table, Value
from lap_jax.cli.models import Filled, Given, filled, given, map_paths, paths_of

MOST_DRAWN = 400
"""Layers and junctions of a graph that is still drawn."""


class Loaded(NamedTuple):
    """A model with the values of a checkpoint, and its graph."""

    given: Given
    filled: Filled
    graph: Graph

    @property
    def parameters(self) -> int:
        """Numbers in the model's floating-point arrays."""
        leaves = paths_of(self.filled.variables).values()
        return sum(leaf.size for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact))


def loaded(checkpoint: Checkpoint, name: str) -> Loaded:
    """Return the model of that name with a checkpoint's values.

    Raises:
      BadInput: if the model cannot be made or called, or the checkpoint is not its own.
      PruningError: if no graph can be read.
    """
    model = given(name)
    values = filled(model.variables, checkpoint)
    try:
        graph = trace(model.model, values.variables, *model.inputs, **model.options)
    except PruningError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        raise BadInput(f"--model {name}, called: {type(error).__name__}: {text}") from error
    return Loaded(model, values, graph)


def small_of(model: Loaded, masks: Any, told: list[str], **options: Any) -> Small | None:
    """Return what `shrink` leaves; None, with a warning, where it leaves nothing to tell.

    Options are those of `shrink`.
    """
    own = model.given
    try:
        return shrink(
            own.model, model.filled.variables, masks, *own.inputs, **options, **own.options
        )  # fmt: skip
    except PruningError as error:
        told.append(f"multiply-adds are not known: {' '.join(str(error).split())}")
        return None


def zeros_as_masks(tree: Any) -> Any:
    """Return masks of a tree of arrays: of every one of two axes or more, what is not zero."""

    def mask(_: str, leaf: Any) -> Any:
        is_kernel = leaf.ndim >= 2 and jnp.issubdtype(leaf.dtype, jnp.inexact)
        return leaf != 0 if is_kernel else jnp.bool_(True)

    return map_paths(mask, tree)


def facts_of(summary: Summary) -> dict[str, Value]:
    """Return the totals of a summary."""
    total = summary.total
    facts: dict[str, Value] = {
        "weights": total.size,
        "kept": total.kept,
        "sparsity": float(total.sparsity),
    }
    if total.effective is not None:
        facts["effective"] = total.effective
    return facts | {"neurons": total.neurons, "dead neurons": total.dead}


def layers_table(summary: Summary) -> Table:
    """Return a summary's rows."""
    header = ("layer", "shape", "weights", "kept", "sparsity", "effective", "dead", "neurons")
    rows = [
        (row.layer, row.shape, row.size, row.kept, float(row.sparsity), row.effective, row.dead,
         row.neurons)
        for row in summary.rows
    ]  # fmt: skip
    return Table("layers", header, rows)


def work_facts(small: Small | None, inputs: Any) -> dict[str, Value]:
    """Return multiply-adds and parameters of the network and of what `shrink` would leave."""
    if small is None:
        return {}
    shapes = ", ".join("x".join(map(str, np.shape(leaf))) for leaf in jax.tree.leaves(inputs))
    return {
        "inputs": shapes,
        "multiply-adds": small.work.before,
        "multiply-adds if shrunk": small.work.after,
        "parameters if shrunk": small.parameters[1],
    }


def warnings_of(graph: Graph, summary: Summary) -> Iterator[str]:
    """Say where lookahead stops, and what does nothing."""
    for barrier in graph.barriers:
        yield str(barrier)
    yield from graph.notes
    for row in summary.rows:
        if not row.kept:
            yield f"layer {row.layer!r} keeps no weight: what follows it is constant"
    total = summary.total
    if total.effective is not None and total.effective < total.kept and total.kept < total.size:
        yield (
            f"{total.kept - total.effective:,} of {total.kept:,} kept weights do nothing: they lie "
            "on no path from input to output (lap-jax prune --effective)"
        )


def unread_of(graph: Graph) -> Iterator[str]:
    """Say which weights are not in the graph, and why."""
    for each in graph.unread:
        if each.is_weight:
            yield f"not in the graph, and not pruned: {each}"


def not_finite(arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Say which arrays hold NaN or infinite numbers."""
    for name, array in arrays.items():
        if jnp.issubdtype(array.dtype, jnp.inexact):
            count = int((~np.isfinite(array.astype(np.float64))).sum())
            if count:
                yield f"{name!r} holds {count:,} numbers that are NaN or infinite"


def left_out(names: tuple[str, ...]) -> Iterator[str]:
    """Say which arrays of a checkpoint are not the model's."""
    if names:
        more = f", and {len(names) - 3} more" if len(names) > 3 else ""
        yield (
            f"not the model's, and not written: {', '.join(names[:3])}{more}; start the optimizer "
            "anew"
        )


@contextmanager
def heard(told: list[str]) -> Iterator[None]:
    """Take warnings of the library down."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    told += [" ".join(str(each.message).split()) for each in caught
             if issubclass(each.category, UserWarning)]  # fmt: skip


def picture_of(graph: Graph) -> str:
    """Return the graph as SVG; nothing where it is too large to look at."""
    if len(graph.layers) + len(graph.junctions) > MOST_DRAWN:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.svg"
        graph.draw(str(path))
        return path.read_text()
