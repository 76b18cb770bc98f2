import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks import scale as module
from experiments.benchmarks.collectives import elements
from experiments.benchmarks.scale import (
    Scale,
    chain_of,
    decoder_masks,
    large,
    measure,
    parameters,
    scale,
    shapes,
    table,
)
from lap_jax import PruningError, lookahead_masks

ROOT = Path(__file__).parents[3]

TINY = Scale(
    layers=3, mesh=(4, 2), width=64, heads=8, kv_heads=2, hidden=96, vocabulary=80, sparsity=0.7
)


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))


@pytest.mark.parametrize("method", ["MP", "LAP"])
def test_a_tiny_decoder_exchanges_neither_weights_nor_scores(method: str) -> None:
    found = measure(TINY, method)
    parts = shapes(TINY)
    block = TINY.layers * sum(math.prod(shape) for shape in parts["block"].values())
    assert found.weights == (block + 2 * 64 * 80) * 2 // 8
    masks = (block + 64 * 80) // 8
    assert masks <= found.masks < masks + 200  # Pointers to eight masks.
    assert found.collectives
    assert large(TINY, found.collectives) == []
    assert found.same_layout
    assert "no weights and no scores cross devices" in table(TINY, [found])


def test_a_gathered_score_is_found_and_named(monkeypatch: pytest.MonkeyPatch, mesh: Mesh) -> None:
    def gathering(kernels: Any, *_: object, **__: object) -> Any:
        whole = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(
            lambda leaf: lax.with_sharding_constraint(abs(leaf), whole) > jnp.median(leaf), kernels
        )

    monkeypatch.setattr(module, "lookahead_masks", gathering)
    found = measure(TINY, "MP")
    assert max(elements(c.shape) for c in large(TINY, found.collectives)) >= 64 * 96
    text = table(TINY, [found])
    assert "no weights" not in text
    assert "collectives are as large as weights or scores, the largest an all-gather of" in text


@pytest.mark.parametrize("method", ["MP", "LAP"])
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_the_masks_that_are_compiled_are_those_of_each_block(
    method: Any, dtype: str, mesh: Mesh
) -> None:
    settings = Scale(**{**vars(TINY), "dtype": dtype})
    rng = np.random.default_rng(0)
    laid_out = parameters(settings, mesh)
    weights = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), laid_out)
    bits = jax.tree.map(
        lambda leaf, like: jax.device_put(
            lax.bitcast_convert_type(leaf, like.dtype), like.sharding
        ),
        weights, laid_out,
    )  # fmt: skip
    found = jax.jit(lambda tree: decoder_masks(tree, settings, method))(bits)
    for i in range(settings.layers):
        block = jax.tree.map(lambda leaf, i=i: leaf[i], weights["block"])
        wanted = lookahead_masks(block, chain_of(settings), settings.sparsity, method=method)
        own = jax.tree.map(lambda leaf, i=i: leaf[i], found["block"])
        chex.assert_trees_all_equal(own, wanted)
    head = {"head": weights["ends"]["head"]}
    wanted = lookahead_masks(head, ["head"], settings.sparsity, method=method)
    chex.assert_trees_all_equal(found["ends"]["head"], wanted["head"])


def test_the_default_is_the_decoder_of_70_billion_weights() -> None:
    assert 70.5e9 < module._weights(Scale()) < 70.6e9
    assert Scale().mesh == (16, 16)


def test_more_devices_than_there_are_are_simulated_in_a_process_of_their_own() -> None:
    settings = Scale(**{**vars(TINY), "mesh": (4, 4), "method": ("MP",)})
    text = scale(settings)
    assert "on 4 x 4 devices (data x model), keeping 30% of each kernel" in text
    assert "| MP |" in text
    assert "| LAP |" not in text


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"q of shape \(64, 64\) does not divide evenly over 3"):
        scale(Scale(**{**vars(TINY), "mesh": (2, 3)}))
    with pytest.raises(PruningError, match="unknown method 'LAPP'"):
        scale(Scale(**{**vars(TINY), "method": ("LAPP",)}))


def test_the_command_line() -> None:
    flags = "--layers 2 --mesh 2 2 --method LAP --width 32 --heads 4 --kv-heads 4 --hidden 64"
    command = [sys.executable, "-m", "experiments.benchmarks.scale", *flags.split()]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=120
        )

    done = run("--vocabulary", "48", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    assert "float32 weights, 2 blocks, on 2 x 2 devices" in done.stdout
    assert "| LAP |" in done.stdout
    refused = run("--vocabulary", "49")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: embed of shape (49, 32) does not")
