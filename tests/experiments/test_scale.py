import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks import scale as module
from experiments.benchmarks.scale import (
    Collective,
    Scale,
    chain_of,
    collectives,
    decoder_masks,
    large,
    measure,
    parameters,
    scale,
    shapes,
    table,
)
from lap_jax import PruningError, lookahead_masks

ROOT = Path(__file__).parents[2]

TINY = Scale(
    layers=3, mesh=(4, 2), width=64, heads=8, kv_heads=2, hidden=96, vocabulary=80, sparsity=0.7
)

HLO = """\
HloModule jit_f, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%inner (p.1: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p.1 = (s32[], bf16[4,8]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %w.1 = bf16[4,8]{1,0} get-tuple-element(%p.1), index=1
  %moved = bf16[4,8]{1,0} collective-permute(%w.1), channel_id=3, source_target_pairs={{0,1},{1,0}}
  ROOT %t.1 = (s32[], bf16[4,8]{1,0}) tuple(%i.1, %moved)
}

%outer (p.2: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p.2 = (s32[], bf16[4,8]{1,0}) parameter(0)
  ROOT %loop = (s32[], bf16[4,8]{1,0}) while(%p.2), condition=%c, body=%inner, \
backend_config={"known_trip_count":{"n":"16"},"known_init_step":{"init":"0","step":"1"}}
}

%endless (p.3: (s32[], pred[3])) -> (s32[], pred[3]) {
  %p.3 = (s32[], pred[3]{0}) parameter(0)
  %b.3 = pred[3]{0} get-tuple-element(%p.3), index=1
  %i.3 = s32[] get-tuple-element(%p.3), index=0
  %gathered = pred[24]{0} all-gather(%b.3), channel_id=4, dimensions={0}
  ROOT %t.3 = (s32[], pred[3]{0}) tuple(%i.3, %b.3)
}

ENTRY %main (w: bf16[4,8], n: f32[]) -> f32[] {
  %w = bf16[4,8]{1,0} parameter(0)
  %n = f32[] parameter(1), metadata={op_name="all-gather(%w)"}
  %both = (f32[], /*index=1*/f32[]) all-reduce(%n, %n), channel_id=1, to_apply=%add
  %start = (bf16[4,8]{1,0:T(8,128)}, bf16[32,8]{1,0:T(8,128)}) all-gather-start(%w), dimensions={0}
  %done = bf16[32,8]{1,0:T(8,128)} all-gather-done(%start)
  %a = (s32[], bf16[4,8]{1,0}) while(%pair), condition=%c, body=%outer, \
backend_config={"known_trip_count":{"n":"80"}}
  %b = (s32[], pred[3]{0}) while(%other), condition=%c, body=%endless
  ROOT %result = f32[] get-tuple-element(%both), index=0
}
"""


def test_collectives_of_a_program_with_loops():
    assert collectives(HLO) == [
        Collective("collective-permute", "bf16[4,8]", 64, 16 * 80),
        Collective("all-gather", "bf16[32,8]", 64, 1),
        Collective("all-reduce", "f32[]", 8, 1),
        Collective("all-gather", "pred[24]", 3, None),
    ]
    assert [collective.total for collective in collectives(HLO)] == [64 * 16 * 80, 64, 8, 3]
    assert collectives("") == []


@pytest.fixture
def mesh():
    return Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))


def compiled(function, sharding, shape=(64, 32)):
    argument = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    return jax.jit(function).lower(argument).compile().as_text()


def test_collectives_finds_a_deliberate_all_gather(mesh):
    columns = NamedSharding(mesh, PartitionSpec(None, "data"))
    whole = NamedSharding(mesh, PartitionSpec())
    found = collectives(compiled(lambda x: lax.with_sharding_constraint(x, whole), columns))
    assert [(c.kind, c.bytes, c.times) for c in found] == [("all-gather", 64 * 32 * 4 // 4, 1)]
    assert module.elements(found[0].shape) == 64 * 32
    assert collectives(compiled(lambda x: x + 1, columns)) == []


def test_collectives_counts_the_turns_of_a_loop(mesh):
    spec = PartitionSpec("data")

    def function(x):
        body = jax.shard_map(
            lambda part: lax.psum(jnp.sin(part), "data"), mesh=mesh, in_specs=spec,
            out_specs=PartitionSpec(),
        )  # fmt: skip
        return lax.fori_loop(0, 5, lambda _, x: jnp.tile(body(x), (4, 1)), x)

    found = collectives(compiled(function, NamedSharding(mesh, spec)))
    (reduced,) = [collective for collective in found if collective.kind == "all-reduce"]
    assert reduced == Collective("all-reduce", "f32[16,32]", 16 * 32 * 4, 5)
    assert reduced.total == 5 * 16 * 32 * 4


@pytest.mark.parametrize("method", ["MP", "LAP"])
def test_a_tiny_decoder_exchanges_neither_weights_nor_scores(method):
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


def test_a_gathered_score_is_found_and_named(monkeypatch, mesh):
    def gathering(kernels, *_, **__):
        whole = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(
            lambda leaf: lax.with_sharding_constraint(abs(leaf), whole) > jnp.median(leaf), kernels
        )

    monkeypatch.setattr(module, "lookahead_masks", gathering)
    found = measure(TINY, "MP")
    assert max(module.elements(c.shape) for c in large(TINY, found.collectives)) >= 64 * 96
    text = table(TINY, [found])
    assert "no weights" not in text
    assert "collectives are as large as weights or scores, the largest an all-gather of" in text


@pytest.mark.parametrize("method", ["MP", "LAP"])
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_the_masks_that_are_compiled_are_those_of_each_block(method, dtype, mesh):
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
        for name in block:
            np.testing.assert_array_equal(
                found["block"][name]["kernel"][i], wanted[name]["kernel"], name
            )
    head = {"head": weights["ends"]["head"]}
    wanted = lookahead_masks(head, ["head"], settings.sparsity, method=method)
    np.testing.assert_array_equal(found["ends"]["head"]["kernel"], wanted["head"]["kernel"])


def test_the_default_is_the_decoder_of_70_billion_weights():
    assert 70.5e9 < module._weights(Scale()) < 70.6e9
    assert Scale().mesh == (16, 16)


def test_more_devices_than_there_are_are_simulated_in_a_process_of_their_own():
    settings = Scale(**{**vars(TINY), "mesh": (4, 4), "method": ("MP",)})
    text = scale(settings)
    assert "on 4 x 4 devices (data x model), keeping 30% of each kernel" in text
    assert "| MP |" in text
    assert "| LAP |" not in text


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"q of shape \(64, 64\) does not divide evenly over 3"):
        scale(Scale(**{**vars(TINY), "mesh": (2, 3)}))
    with pytest.raises(PruningError, match="unknown method 'LAPP'"):
        scale(Scale(**{**vars(TINY), "method": ("LAPP",)}))


def test_the_command_line():
    flags = "--layers 2 --mesh 2 2 --method LAP --width 32 --heads 4 --kv-heads 4 --hidden 64"
    command = [sys.executable, "-m", "experiments.benchmarks.scale", *flags.split()]

    def run(*more):
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
