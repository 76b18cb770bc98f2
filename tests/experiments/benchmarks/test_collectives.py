from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks.collectives import Collective, collectives, elements

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


def test_collectives_of_a_program_with_loops() -> None:
    assert collectives(HLO) == [
        Collective("collective-permute", "bf16[4,8]", 64, 16 * 80),
        Collective("all-gather", "bf16[32,8]", 64, 1),
        Collective("all-reduce", "f32[]", 8, 1),
        Collective("all-gather", "pred[24]", 3, None),
    ]
    assert [collective.total for collective in collectives(HLO)] == [64 * 16 * 80, 64, 8, 3]
    assert collectives("") == []


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))


def compiled(
    function: Callable[[jax.Array], jax.Array],
    sharding: NamedSharding,
    shape: tuple[int, ...] = (64, 32),
) -> str:
    argument = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    text = jax.jit(function).lower(argument).compile().as_text()
    assert text is not None
    return text


def test_collectives_finds_a_deliberate_all_gather(mesh: Mesh) -> None:
    columns = NamedSharding(mesh, PartitionSpec(None, "data"))
    whole = NamedSharding(mesh, PartitionSpec())
    found = collectives(compiled(lambda x: lax.with_sharding_constraint(x, whole), columns))
    assert [(c.kind, c.bytes, c.times) for c in found] == [("all-gather", 64 * 32 * 4 // 4, 1)]
    assert elements(found[0].shape) == 64 * 32
    assert collectives(compiled(lambda x: x + 1, columns)) == []


def test_collectives_counts_the_turns_of_a_loop(mesh: Mesh) -> None:
    spec = PartitionSpec("data")

    def function(x: jax.Array) -> jax.Array:
        body = jax.shard_map(
            lambda part: lax.psum(jnp.sin(part), "data"), mesh=mesh, in_specs=spec,
            out_specs=PartitionSpec(),
        )  # fmt: skip
        return lax.fori_loop(0, 5, lambda _, x: jnp.tile(body(x), (4, 1)), x)

    found = collectives(compiled(function, NamedSharding(mesh, spec)))
    (reduced,) = [collective for collective in found if collective.kind == "all-reduce"]
    assert reduced == Collective("all-reduce", "f32[16,32]", 16 * 32 * 4, 5)
    assert reduced.total == 5 * 16 * 32 * 4
