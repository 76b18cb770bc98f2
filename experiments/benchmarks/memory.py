"""Print the peak bytes of one first call, beyond those before it. Run by `masks.peak_memory`.

Linux counts them: ``VmHWM`` is the peak since ``clear_refs`` was last written.
"""

import sys
from pathlib import Path

import jax

from experiments.benchmarks.entries import Peers, entries
from experiments.benchmarks.workloads import WORKLOADS


def main(workload: str, name: str, *folders: str) -> None:
    """Set an entry up, call it once and print what it took."""
    peers = Peers(*(Path(folder) if folder else None for folder in folders))
    call = entries(WORKLOADS[workload](), peers)[name]()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    jax.block_until_ready(call())
    print(_resident("VmHWM") - before)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main(*sys.argv[1:])
