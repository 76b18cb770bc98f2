"""What becomes of one model when it is shrunk: a row of another table."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.models.example import Example, count_of, leaves_by_path, stirred
from experiments.benchmarks.models.row import LIMIT, Entry, at_most, line, missing
from experiments.benchmarks.models.sections import sections
from lap_jax import Graph, Scope, apply_masks, lookahead_masks, neuron_groups, shrink, trace

NEURONS = 0.5
WEIGHTS = (0.97, 0.8, 0.5)
"""Sparsities of single weights: the next one where the one before leaves nothing at all."""
TOLERANCE = 1e-5

HEADER = (
    "Model", "dtype", "Parameters", "Half of the neurons", "Weights at", "Difference", "Varies",
    "At full size", "Seconds",
)  # fmt: skip
INTRODUCTION = f"""\
The models of the support matrix, made really smaller by `lap_jax.shrink`, with made-up weights and
biases: by LAP half of the neurons of each group that can go, or by LAP single weights, folded
and, for training on (``fold=False``), unfolded. *Half of the neurons*, *Weights at*: parameters
that are left. *Difference*: the largest of the three small networks to the masked ones, relative to
the largest number of an output, in float32; more than {TOLERANCE:g} is an error. *Varies*: the
largest change of an output without half of the neurons when the inputs are others, relative as
well, which tells a difference from none; kernels that start out small are made larger for it. *At
full size*: primitives that have no rule. Seconds are those of the CPU, of all three, compilation
included, of what no model before it had compiled."""


@dataclass(frozen=True)
class Shrunk:
    """What is left of a model.

    Attributes:
      library, model, dtype: of the entry.
      versions: see `Row`.
      parameters: how many.
      neurons: how many are left without half of the neurons; 0 where no group can be pruned.
      weights: how many are left at a sparsity of single weights.
      sparsity: that sparsity.
      difference: the largest to the masked networks.
      varies: how much the outputs depend on the inputs; 0 where that was not looked at.
      full: what is computed at full size, and in which line.
      seconds: of the CPU.
      error, missing: see `Row`.
    """

    library: str
    model: str
    dtype: str
    versions: dict[str, str]
    parameters: int = 0
    neurons: int = 0
    weights: int = 0
    sparsity: float = 0.0
    difference: float = 0.0
    varies: float = 0.0
    full: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""
    missing: str = ""


def shrunk(entry: Entry, versions: dict[str, str], limit: float = LIMIT) -> Shrunk:
    """Build a model, prune it, and make it smaller: without neurons, and without weights.

    Args:
      entry: the model.
      versions: what the row says of them.
      limit: seconds of CPU after which the row ends with what is known by then.
    """
    about = entry.about(versions)
    absent = missing(entry)
    if absent:
        return Shrunk(**about, missing=absent)
    start, stage = time.process_time(), "cannot be built"
    try:
        with at_most(limit), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is in no layer: the other table lists it
            example = entry.build()
            example = example._replace(variables=audible(stirred(example.variables)))
            leaves = leaves_by_path(example.variables)
            about["parameters"] = count_of(leaves)
            stage = "trace"
            graph = trace(example.function, example.variables, *example.inputs)
            for stage in ("neurons", "weights"):
                about |= (_neurons if stage == "neurons" else _weights)(example, graph, about)
                about["seconds"] = time.process_time() - start
    except Exception as error:
        return Shrunk(**about, error=f"{stage}: {line(error)}")
    return Shrunk(**about)


def _neurons(example: Example, graph: Graph, about: dict[str, Any]) -> dict[str, Any]:
    if not neuron_groups(graph).free:
        return {"varies": varied(example)}
    masks = lookahead_masks(example.variables, graph, NEURONS, scope=Scope(unit="neuron"))
    small = shrink(example.function, example.variables, masks, *example.inputs, tolerance=TOLERANCE)
    varies = varied(example._replace(variables=apply_masks(example.variables, masks)))
    return _said(small, about) | {"neurons": small.parameters[1], "varies": varies}


def _weights(example: Example, graph: Graph, about: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for sparsity in WEIGHTS:
        masks = lookahead_masks(example.variables, graph, sparsity)
        given = (example.function, example.variables, masks, *example.inputs)
        small = shrink(*given, tolerance=TOLERANCE)
        found = _said(small, about | found)
        if small.parameters[1]:
            break
    trained = shrink(*given, fold=False, tolerance=TOLERANCE)
    found = _said(trained, about | found)
    return found | {"weights": small.parameters[1], "sparsity": sparsity}


def audible(variables: Any) -> Any:
    """Return variables whose small kernels are larger, so that inputs are heard beside biases.

    Kernels of less than one over the root of their inputs, in root mean square, are brought to it.
    """

    def louder(leaf: Any) -> Any:
        if jnp.ndim(leaf) < 2 or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        inputs = math.prod(jnp.shape(leaf)[:-1])
        size = float(jnp.sqrt(jnp.mean(jnp.square(leaf.astype(jnp.float32)))))
        return leaf * max(1.0, inputs**-0.5 / max(size, 1e-9))

    return jax.tree.map(louder, variables)


def varied(example: Example) -> float:
    """Return the largest change of an output when inputs are turned round along their last axis.

    Relative to the largest number of that output.
    """

    def other(leaf: Any) -> Any:
        plain = jnp.ndim(leaf) > 0 and jnp.issubdtype(jnp.result_type(leaf), jnp.number)
        return jnp.flip(leaf, -1) if plain else leaf

    outs = [
        [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(example.function(
            example.variables, *inputs)) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
        for inputs in (example.inputs, jax.tree.map(other, example.inputs))
    ]  # fmt: skip
    return max(
        (float(np.abs(one - two).max() / max(np.abs(one).max(), 1e-30))
         for one, two in zip(*outs, strict=True)), default=0.0,
    )  # fmt: skip


def _said(small: Any, about: dict[str, Any]) -> dict[str, Any]:
    """Return what one small network adds to what is known."""
    full = [f"{name} at {_place(where)}" for name, where in small.at_full_size]
    return {
        "difference": max(about.get("difference", 0.0), small.difference),
        "full": tuple(dict.fromkeys((*about.get("full", ()), *full))),
    }


def _place(where: str) -> str:
    """Return a line as the name of its file and its number."""
    path, _, rest = where.partition(":")
    return f"{PurePath(path).name}:{rest.partition(':')[0]}"


def shrunk_table(rows: Sequence[Shrunk]) -> str:
    """Return Markdown: a table for each library, then what stays large, and what went wrong."""
    tried = [row for row in rows if not row.missing]
    built = [row for row in tried if not row.error.startswith("cannot be built")]
    fine = [row for row in built if not row.error]
    worst = max((row.difference for row in fine), default=0.0)
    summary = (
        f"{len(built)} models: {len(fine)} shrink, largest difference {worst:.1e}; "
        f"{len(built) - len(fine)} end in an error. {sum(bool(row.full) for row in fine)} compute "
        f"something at full size. {len(rows) - len(built)} were not there to be tried."
    )
    parts = ["# Small models", INTRODUCTION, summary, *sections(tried, HEADER, _cells)]
    notes = [
        f"- {row.library} {row.model}, {row.dtype}: {text}"
        for row in tried
        for text in (*(f"{each}, at full size" for each in row.full), row.error)
        if text
    ]
    if notes:
        parts += ["## What stays large, and what went wrong", "\n".join(notes)]
    absent = [row.library for row in rows if row.missing]
    if absent:
        counts = (f"{absent.count(library)} of {library}" for library in dict.fromkeys(absent))
        parts += ["## Not tried", f"Not installed, or no checkout given: {', '.join(counts)}."]
    return "\n\n".join(parts) + "\n"


def _cells(row: Shrunk) -> tuple[str, ...]:
    def left(count: int) -> str:
        return f"{count:,} ({count / max(row.parameters, 1):.0%})"

    return (
        row.model, row.dtype, f"{row.parameters:,}" if row.parameters else "-",
        left(row.neurons) if row.neurons else "-",
        f"{row.sparsity:.0%}: {left(row.weights)}" if row.sparsity else "-",
        f"{row.difference:.1e}" if row.sparsity or row.neurons else "-",
        f"{row.varies:.1g}" if row.varies else "-",
        str(len(row.full)), "error" if row.error else f"{row.seconds:.0f}",
    )  # fmt: skip
