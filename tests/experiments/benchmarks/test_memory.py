"""Peak memory, as Linux counts it."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarks.memory import _resident

STATUS = Path("/proc/self/status")


def test_peak_memory_is_measured_in_a_process_of_its_own() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.memory", "vgg19", "memcpy"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 70e6 < int(done.stdout) < 100e6  # The copy of 80 MB, whose pages are new.


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells")
def test_bytes_are_read_from_the_kernels_kilobytes() -> None:
    now, peak = _resident("VmRSS"), _resident("VmHWM")
    assert now % 1024 == 0
    assert 10 * 2**20 < now <= peak + 2**20  # Python alone takes more
