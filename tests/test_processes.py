"""Several processes that each hold a part of the parameters make the masks of one process."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import numpy as np
import pytest

from tests import processes
from tests.processes import JITTED, RUNS, Part

ROOT = Path(__file__).parents[1]

LIMIT = 400
"""Seconds that the processes may take, all together: many times what they need alone."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_together(count: int, devices: int, out: Path) -> None:
    """Start the processes and wait; if one fails, or time is up, end them all and say why."""
    count_of_devices = "--xla_force_host_platform_device_count"
    others = [flag for flag in os.environ["XLA_FLAGS"].split() if count_of_devices not in flag]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*others, f"{count_of_devices}={devices}"]),
    }
    address = f"127.0.0.1:{free_port()}"
    started: list[subprocess.Popen[bytes]] = []
    deadline = time.monotonic() + LIMIT
    try:
        for i in range(count):
            with (out / f"{i}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.processes", address, str(count), str(i), out],
                        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                        stderr=subprocess.STDOUT, start_new_session=True,
                    )
                )  # fmt: skip
        while any(process.poll() is None for process in started):
            if any(process.poll() for process in started) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        codes = [process.poll() for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    logs = "\n".join(
        f"--- process {i}, {'ended by the test' if code is None else f'exit status {code}'}:\n"
        + (out / f"{i}.log").read_text()[-3000:]
        for i, code in enumerate(codes)
    )
    assert codes == [0] * count, f"in {LIMIT} s:\n{logs}"


def read_parts(path: Path) -> list[Part]:
    with np.load(path) as file:
        found = []
        for i, label in enumerate(file["labels"]):
            run, layer, start, same = str(label).split("/")
            mask = file[f"mask_{i}"]
            found.append(Part(run, layer, tuple(map(int, start.split())), mask, same == "1"))
        return found


@pytest.mark.parametrize(("count", "devices"), [(2, 2), pytest.param(4, 1, marks=pytest.mark.slow)])
def test_processes_make_the_masks_of_one(count: int, devices: int, tmp_path: Path) -> None:
    run_together(count, devices, tmp_path)
    found = [part for i in range(count) for part in read_parts(tmp_path / f"{i}.npz")]
    params = processes.parameters()
    for method, layout in RUNS[count]:
        wanted = processes.masks(params, method)
        jitted = [f"{method} {layout} jitted"] if (method, layout) in JITTED else []
        for run, layer in itertools.product([f"{method} {layout}", *jitted], params):
            parts = [part for part in found if (part.run, part.layer) == (run, layer)]
            mask = np.asarray(wanted[layer]["kernel"])
            covered = np.zeros(mask.shape, bool)
            for part in parts:
                place = tuple(
                    slice(start, start + length)
                    for start, length in zip(part.start, part.mask.shape, strict=True)
                )
                chex.assert_trees_all_equal(part.mask, mask[place], custom_message=f"{run} {layer}")
                covered[place] = True
            assert covered.all()
            assert all(part.same_sharding for part in parts), (run, layer)
            assert all(part.mask.size < mask.size for part in parts)  # No process has the whole.
