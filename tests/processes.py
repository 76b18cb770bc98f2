"""One of several processes that prune one network together; writes the parts of the masks it holds.

    python -m tests.processes ADDRESS PROCESSES ID OUT

The number of simulated devices of each process is in `XLA_FLAGS`. `tests/test_processes.py` starts
the processes and compares what they write with the masks of a single process.
"""

import itertools
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lap_jax import lookahead_masks

SPARSITY = 0.83

LAYOUTS = {
    "rows": PartitionSpec(("x", "y"), None),
    "columns": PartitionSpec(None, ("x", "y")),
    "both": PartitionSpec("x", "y"),
}
"""Over a mesh of (2, 2): of two processes with two devices each, or of four with one each."""

RUNS = {
    2: [("LAP", "both")],
    4: [("MP", "columns"), ("LAP", "both"), ("LAP-backward-seq", "rows")],
}
"""What so many processes do."""

JITTED = [("LAP", "both")]
"""Also as one program."""


class Part(NamedTuple):
    """The part of a mask that one device holds."""

    run: str
    """Method, layout, and whether the call was jitted."""
    layer: str
    start: tuple[int, ...]
    mask: np.ndarray
    same_sharding: bool
    """Whether the whole mask lies as its kernel does."""


def parameters() -> dict[str, dict[str, np.ndarray]]:
    """A small network whose kernels hold ties that no device has all of."""
    rng = np.random.default_rng(5)
    widths = [64, 96, 128, 32]
    params = {
        f"Dense_{i}": {"kernel": rng.normal(size=shape).astype(np.float32)}
        for i, shape in enumerate(itertools.pairwise(widths))
    }
    params["Dense_1"]["kernel"][:, 5] = 1.0
    params["Dense_2"]["kernel"] = np.round(params["Dense_2"]["kernel"], 1)
    return params


def masks(params: Any, method: Any) -> Any:
    """The masks under test."""
    return lookahead_masks(params, sorted(params), SPARSITY, method=method)


def place(params: Any, sharding: NamedSharding) -> Any:
    """Lay the parameters out over the devices of all processes."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__), params
    )


def mesh() -> Mesh:
    """All four devices; of two processes, each has a row."""
    return Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))


def parts(run: str, placed: Any, found: Any) -> Iterator[Part]:
    """What this process holds of a tree of masks."""
    for layer, leaves in found.items():
        mask, kernel = leaves["kernel"], placed[layer]["kernel"]
        same = mask.sharding.is_equivalent_to(kernel.sharding, mask.ndim)
        for shard in mask.addressable_shards:
            start = tuple(axis.start or 0 for axis in shard.index)
            yield Part(run, layer, start, np.asarray(shard.data), same)


def work() -> Iterator[Part]:
    """Prune in every layout."""
    for method, layout in RUNS[jax.process_count()]:
        placed = place(parameters(), NamedSharding(mesh(), LAYOUTS[layout]))
        yield from parts(f"{method} {layout}", placed, masks(placed, method))
        if (method, layout) in JITTED:
            jitted = jax.jit(masks, static_argnums=1)
            yield from parts(f"{method} {layout} jitted", placed, jitted(placed, method))


def main(address: str, processes: str, process: str, out: str) -> None:
    """Join the others, work, write."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address, int(processes), int(process), initialization_timeout=60,
        heartbeat_timeout_seconds=30,
    )  # fmt: skip
    assert jax.process_count() == int(processes)
    found = list(work())
    arrays: dict[str, Any] = {f"mask_{i}": part.mask for i, part in enumerate(found)}
    arrays["labels"] = [
        f"{part.run}/{part.layer}/{' '.join(map(str, part.start))}/{int(part.same_sharding)}"
        for part in found
    ]
    np.savez(f"{out}/{process}.npz", **arrays)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
