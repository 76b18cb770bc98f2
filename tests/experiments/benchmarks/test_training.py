"""Speed of retraining: the work of a step, and what the table makes of measured times."""

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import training as module
from experiments.benchmarks.training import Row, Training, flops_per_step, training


def test_the_work_of_a_step_is_that_of_its_matrix_products() -> None:
    """Counted by XLA in the gradient of a network without anything else."""
    widths, batch = [7, 5, 4, 3], 6
    kernels = [jnp.ones(pair) for pair in itertools.pairwise(widths)]

    def output(kernels: list[jax.Array], x: jax.Array) -> jax.Array:
        for kernel in kernels:
            x = x @ kernel
        return x

    def products(kernels: list[jax.Array], x: jax.Array, back: jax.Array) -> list[jax.Array]:
        y, pull = jax.vjp(lambda kernels: output(kernels, x), kernels)
        return [y, *pull(back)[0]]

    arrays = kernels, jnp.ones((batch, widths[0])), jnp.ones((batch, widths[-1]))
    cost: Any = jax.jit(products).lower(*arrays).cost_analysis()
    assert cost["flops"] == flops_per_step(widths, batch)


def test_ratios_are_those_of_medians_to_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = flops_per_step([784, 500, 500, 500, 500, 10], 60)
    rows = [Row("ours", (0.002, 0.001, 0.009), 1.0), Row("peer", (0.006,), 1.0)]
    peaks = {"products of the step's shapes": 2 * work / 0.002}
    monkeypatch.setattr(module, "measure", lambda _: (rows, peaks))
    text = training(Training(out=tmp_path))
    assert "| ours | 2.00 | 1.00-9.00 | 36.0 | 1.00 | 50% |" in text
    assert "| peer | 6.00 | 6.00-6.00 | 12.0 | 3.00 | 17% |" in text
    assert text.startswith((tmp_path / "training.md").read_text())
    numbers = json.loads((tmp_path / "training.json").read_text())
    assert numbers["rows"][1] == {"name": "peer", "seconds": [0.006], "first": 1.0}
    assert (numbers["flops"], numbers["peaks"]) == (work, peaks)
