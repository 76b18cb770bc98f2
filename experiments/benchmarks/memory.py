"""Print the peak bytes of one first call, beyond those before it. Run by `masks.peak_memory`."""

import resource
import sys
from pathlib import Path

import jax

from experiments.benchmarks.entries import Peers, entries
from experiments.benchmarks.workloads import WORKLOADS


def main(workload: str, name: str, *folders: str) -> None:
    """Set an entry up, call it once and print what it took."""
    peers = Peers(*(Path(folder) if folder else None for folder in folders))
    call = entries(WORKLOADS[workload](), peers)[name]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    jax.block_until_ready(call())
    print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


if __name__ == "__main__":
    main(*sys.argv[1:])
