"""The floor: one pass that reads the weights and writes the masks, thresholds given, natively."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

SOURCE = """
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
typedef struct { const float *weights; uint8_t *mask; size_t size; float threshold; } part;
static void *fill(void *argument) {
  part p = *(part *)argument;
  const float *restrict weights = p.weights;
  uint8_t *restrict mask = p.mask;
  for (size_t i = 0; i < p.size; i++) mask[i] = __builtin_fabsf(weights[i]) >= p.threshold;
  return 0;
}
void masks(const float *weights, uint8_t *mask, size_t size, float threshold) {
  size_t half = size < 65536 ? 0 : size / 128 * 64;
  part first = {weights, mask, half, threshold};
  part second = {weights + half, mask + half, size - half, threshold};
  pthread_t thread;
  int shared = half && !pthread_create(&thread, 0, fill, &first);
  fill(&second);
  if (shared) pthread_join(thread, 0);
  else if (half) fill(&first);
}
"""


def native(kernels: list[np.ndarray], thresholds: list[float]) -> Callable[[], list[np.ndarray]]:
    """Return a function that makes the masks in two threads.

    Raises:
      RuntimeError: if there is no C compiler, ``cc``.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError("no C compiler: cc")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "floor.c", Path(folder) / "floor.so"
        source.write_text(SOURCE)
        flags = ["-O3", "-march=native", "-pthread", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, source, "-o", library], check=True)
        function = ctypes.CDLL(str(library)).masks
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_float]
    outputs = [np.empty(kernel.shape, bool) for kernel in kernels]

    def run() -> list[np.ndarray]:
        for kernel, output, threshold in zip(kernels, outputs, thresholds, strict=True):
            function(kernel.ctypes.data, output.ctypes.data, kernel.size, threshold)
        return outputs

    return run
