"""Masks of a decoder of 70 billion weights on 256 devices, compiled and not run.

    python -m experiments.benchmarks.scale --mesh 16 16 --method MP LAP

Shapes go in, no weights: the program is lowered and compiled for simulated CPU devices, and what it
would hold and exchange is read from the compiled program. The decoder has the shapes of Llama 3
70B. Each kernel is stacked over the blocks, ``[layers, in, out]``, and laid out as usual for
training: the input side over the data axis and the output side over the model axis, for `o`, `down`
and the embedding the other way round.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks.collectives import KINDS, Collective, collectives, elements
from lap_jax import LayerSpec, PruningError, lookahead_masks

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Scale:
    """Compile the masks of a large decoder for a large mesh, and say what each device holds.

    Nothing runs and no weights exist. The defaults are the shapes of Llama 3 70B.
    """

    layers: int = 80
    """Blocks of the decoder."""
    mesh: tuple[int, int] = (16, 16)
    """Devices along the data axis and along the model axis."""
    method: tuple[str, ...] = ("MP", "LAP")
    """Pruning methods, by the paper's names."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Of the weights."""
    sparsity: float = 0.5
    """Fraction removed, of each kernel."""
    width: int = 8192
    """Of the residual stream: heads times the size of a head."""
    heads: int = 64
    """Query heads."""
    kv_heads: int = 8
    """Key and value heads."""
    hidden: int = 28672
    """Of the gated MLP."""
    vocabulary: int = 128256
    """Tokens."""


class Measured(NamedTuple):
    """What the compiled program of one method holds and exchanges, per device."""

    method: str
    weights: int
    masks: int
    temporaries: int
    collectives: list[Collective]
    seconds: float
    """Of lowering and compiling."""
    same_layout: bool
    """Whether each mask lies over the devices as its kernel does."""


def chain_of(settings: Scale) -> list[LayerSpec]:
    """Return what feeds what in a block.

    Values feed `o`, the gate and what it gates feed `down`; the others have no neighbour. A value
    head feeds several query heads, as a flatten of so many positions does: query head `h` reads
    value head `h` modulo their number.
    """
    return [
        *(LayerSpec(name, previous=()) for name in ("q", "k", "v")),
        LayerSpec("o", previous="v", flatten=settings.heads // settings.kv_heads),
        *(LayerSpec(name, previous=()) for name in ("gate", "up")),
        LayerSpec("down", previous=("gate", "up")),
    ]


def shapes(settings: Scale) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the shapes of the decoder's kernels: one block's, and those outside of the blocks."""
    width, hidden = settings.width, settings.hidden
    values = width // settings.heads * settings.kv_heads
    block: dict[str, tuple[int, ...]] = {
        "q": (width, width),
        "k": (width, values),
        "v": (width, values),
        "o": (width, width),
        "gate": (width, hidden),
        "up": (width, hidden),
        "down": (hidden, width),
    }
    ends: dict[str, tuple[int, ...]] = {
        "embed": (settings.vocabulary, width),
        "head": (width, settings.vocabulary),
    }
    return {"block": block, "ends": ends}


def parameters(settings: Scale, mesh: Mesh) -> dict[str, dict[str, Any]]:
    """Return the decoder as shapes laid out over a mesh, of integers as wide as its weights.

    Raises:
      ValueError: if a kernel does not divide evenly over the mesh.
    """
    dtype = {2: jnp.uint16, 4: jnp.uint32}[jnp.dtype(settings.dtype).itemsize]
    trees: dict[str, dict[str, Any]] = {}
    for part, kernels in shapes(settings).items():
        trees[part] = {}
        for name, shape in kernels.items():
            axes = ("model", "data") if name in ("o", "down", "embed") else ("data", "model")
            for size, axis in zip(shape, axes, strict=True):
                if size % mesh.shape[axis]:
                    raise ValueError(
                        f"{name} of shape {shape} does not divide evenly over {mesh.shape[axis]} "
                        f"devices along the {axis} axis"
                    )
            stacked = (settings.layers, *shape) if part == "block" else shape
            spec = PartitionSpec(*(None,) * (len(stacked) - 2), *axes)
            trees[part][name] = {
                "kernel": jax.ShapeDtypeStruct(stacked, dtype, sharding=NamedSharding(mesh, spec))
            }
    return trees


def decoder_masks(bits: Mapping[str, Mapping[str, Any]], settings: Scale, method: str) -> Any:
    """Return the masks of a decoder: block after block, then the head; the embedding is not pruned.

    Args:
      bits: the weights in the structure of `parameters`, viewed as integers. The CPU compiler does
        not compute in bfloat16: a loop over bfloat16 would hold all blocks in float32.
      settings: the decoder and the sparsity.
      method: a method of `lap_jax.METHODS`.
    """
    chain = chain_of(settings)

    named: Any = method

    def masks(kernels: Any, chain: Any) -> Any:
        weights = jax.tree.map(lambda leaf: lax.bitcast_convert_type(leaf, settings.dtype), kernels)
        return lookahead_masks(weights, chain, settings.sparsity, method=named)

    return {
        "block": lax.map(lambda block: masks(block, chain), bits["block"]),
        "ends": masks({"head": bits["ends"]["head"]}, ["head"]),
    }


def measure(settings: Scale, method: str) -> Measured:
    """Compile the masks of one method for simulated devices, and read the program.

    Raises:
      ValueError: if a kernel does not divide evenly over the mesh.
      PruningError: for an unknown method, or one that needs more than weights.
    """
    devices = np.array(jax.devices("cpu")[: math.prod(settings.mesh)])
    mesh = Mesh(devices.reshape(settings.mesh), ("data", "model"))
    params = parameters(settings, mesh)
    start = time.perf_counter()
    program = jax.jit(lambda tree: decoder_masks(tree, settings, method), keep_unused=True)
    compiled = program.lower(params).compile()
    seconds = time.perf_counter() - start
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None
    assert hlo is not None
    pruned = {"block": params["block"], "ends": {"head": params["ends"]["head"]}}
    same = jax.tree.map(
        lambda leaf, sharding: leaf.sharding.is_equivalent_to(sharding, len(leaf.shape)),
        pruned,
        compiled.output_shardings,
    )
    return Measured(
        method=method,
        weights=memory.argument_size_in_bytes,
        masks=memory.output_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        collectives=collectives(hlo),
        seconds=seconds,
        same_layout=jax.tree.all(same),
    )


def smallest_part(settings: Scale) -> int:
    """Return how many weights a device has of the smallest kernel."""
    kernels = shapes(settings)["block"].values()
    return min(map(math.prod, kernels)) // math.prod(settings.mesh)


def large(settings: Scale, found: Sequence[Collective]) -> list[Collective]:
    """Return the collectives that could carry weights or scores.

    Those are the ones whose result holds as much as the smallest part of a kernel that a device
    has. Norms, of which there is one per neuron, are smaller than that in a decoder of real size.
    """
    return [
        collective for collective in found if elements(collective.shape) >= smallest_part(settings)
    ]


def table(settings: Scale, rows: Sequence[Measured]) -> str:
    """Return Markdown: a row per method, and what the rows say in sentences."""
    kinds = [kind for kind in KINDS if any(c.kind == kind for row in rows for c in row.collectives)]
    header = ["Method", "Weights", "Masks", "Temporaries", *kinds, "Largest exchanged", "Compile"]
    lines = [header, ["---"] * len(header)]
    lines += [list(_cells(row, kinds)) for row in rows]
    size = _weights(settings)
    text = [
        f"A decoder of {size / 1e9:.1f} billion {settings.dtype} weights, {settings.layers} blocks,"
        f" on {settings.mesh[0]} x {settings.mesh[1]} devices (data x model), keeping "
        f"{1 - settings.sparsity:.0%} of each kernel. Per device and call; a collective's bytes are"
        " what the device puts in.",
        "",
        *("| " + " | ".join(line) + " |" for line in lines),
        "",
        *(_sentence(settings, row) for row in rows),
    ]
    return "\n".join(text) + "\n"


def _weights(settings: Scale) -> int:
    parts = shapes(settings)
    block = sum(math.prod(shape) for shape in parts["block"].values())
    return settings.layers * block + sum(math.prod(shape) for shape in parts["ends"].values())


def _cells(row: Measured, kinds: Sequence[str]) -> Iterator[str]:
    yield from (row.method, *map(_size, (row.weights, row.masks, row.temporaries)))
    for kind in kinds:
        some = [collective for collective in row.collectives if collective.kind == kind]
        runs = sum(collective.runs for collective in some)
        least = "at least " if any(collective.times is None for collective in some) else ""
        total = sum(collective.total for collective in some)
        yield f"{least}{_size(total)} in {runs:,}" if some else "none"
    most = _largest(row.collectives)
    yield "none" if most is None else f"{most.kind} of {most.shape}"
    yield f"{row.seconds:.1f} s"


def _sentence(settings: Scale, row: Measured) -> str:
    gathered = large(settings, row.collectives)
    most = _largest(gathered)
    if most is None:
        exchange = (
            "no weights and no scores cross devices: nothing that does is as large as the smallest "
            f"part of a kernel on a device, {smallest_part(settings):,} weights"
        )
    else:
        exchange = (
            f"{len(gathered)} collectives are as large as weights or scores, the largest an "
            f"{most.kind} of {most.shape}"
        )
    layout = "lie as" if row.same_layout else "do not lie as"
    return f"- {row.method}: {exchange}; the masks {layout} the weights."


def _largest(found: Sequence[Collective]) -> Collective | None:
    return max(found, key=lambda collective: elements(collective.shape), default=None)


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def scale(settings: Scale) -> str:
    """Return the table of `settings`, from a new process where this one has too few devices.

    Raises:
      ValueError: if a kernel does not divide evenly over the mesh.
      PruningError: for an unknown method, or one that needs more than weights.
      subprocess.CalledProcessError: if the new process fails; it has said why.
    """
    count = math.prod(settings.mesh)
    if len(jax.devices("cpu")) >= count:
        return table(settings, [measure(settings, method) for method in settings.method])
    flags = [
        part
        for name in Scale.__dataclass_fields__
        for part in (f"--{name.replace('_', '-')}", *_words(getattr(settings, name)))
    ]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
    }
    return subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.scale", *flags],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip


def _words(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, tuple) else [str(value)]


def main() -> None:
    """Print the table."""
    settings = tyro.cli(Scale)
    try:
        print(scale(settings), end="")
    except (ValueError, PruningError) as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)


if __name__ == "__main__":
    main()
