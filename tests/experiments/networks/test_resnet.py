"""ResNet-18: its two chains, its strides, and half precision."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

import lap_jax
from experiments.networks.resnet import SETTINGS, Block, ResNet18, build, chain, chain_identity

# XLA compiles the default generator anew for every kernel, which takes longer than the tests.
KEY = jax.random.key(0, impl="rbg")
IMAGES = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
NARROW = ResNet18(10, widths=(4, 8, 16, 32))


def test_bfloat16_is_computed_in_and_near_float32() -> None:
    rough = NARROW.clone(dtype=jnp.bfloat16)
    variables = jax.jit(rough.init)(KEY, IMAGES)
    found, wanted = (jax.jit(module.apply)(variables, IMAGES) for module in (rough, NARROW))
    chex.assert_type([found, wanted], jnp.float32)
    assert (found != wanted).any()
    chex.assert_trees_all_close(found, wanted, rtol=0, atol=0.05 * float(jnp.abs(wanted).max()))


def test_strided_windows_are_centred_where_the_shortcut_reads() -> None:
    block = Block(1, 2, lambda x: x, jnp.float32)
    x = jax.random.normal(KEY, (1, 6, 6, 1))
    variables = block.init(KEY, x, False)
    delta = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    kernels = {"Conv_0": delta, "Conv_1": delta, "shortcut": jnp.ones((1, 1, 1, 1))}
    params = {**variables["params"], **{name: {"kernel": k} for name, k in kernels.items()}}
    out = block.apply({**variables, "params": params}, x, False)
    chex.assert_trees_all_close(out, 2 * x[:, ::2, ::2], rtol=1e-4)


def test_every_block_of_the_second_chain_has_an_identity_around_it() -> None:
    setting = SETTINGS["resnet18"]
    assert (setting.chain, setting.chain_identity) == (chain(), chain_identity())
    variables = jax.eval_shape(build(10, "relu").init, KEY, IMAGES)
    graph, plain = (
        lap_jax.chain(variables["params"], each, variables["batch_stats"])
        for each in (chain_identity(), chain())
    )
    assert graph.layers == plain.layers
    assert {edge for edge in graph.edges if lap_jax.IDENTITY not in _ends(edge)} == set(plain.edges)
    blocks = [f"Block_{i}/Conv" for i in range(8)]
    passed_by = [edge.target for edge in graph.edges if edge.source == lap_jax.IDENTITY]
    passed_on = [edge.source for edge in graph.edges if edge.target == lap_jax.IDENTITY]
    assert passed_by == [*(f"{block}_0" for block in blocks[1:]), "Dense_0"]
    assert passed_on == ["Conv_0", *(f"{block}_1" for block in blocks[:-1])]


def test_an_identity_is_a_neighbour_of_norm_one() -> None:
    """Eq. 9, squared, with one more term in each sum."""
    variables = jax.jit(NARROW.init)(KEY, IMAGES)
    params, stats = variables["params"], variables["batch_stats"]
    plain, identity = (
        lap_jax.lookahead_scores(params, each, batch_stats=stats)
        for each in (chain()[:8], chain_identity()[:4])  # up to Block_1/Conv_0
    )
    squares = {
        name: np.asarray(functools.reduce(lambda tree, key: tree[key], name.split("/"), params)
                         ["kernel"]) ** 2
        for name in plain
    }  # fmt: skip
    gain = 1 / (1 + 1e-5)  # squared, of every batch norm at its start
    outflow = squares["Block_1/Conv_0"].sum((0, 1, 3))
    inflow = gain * squares["Block_0/Conv_1"].sum((0, 1, 2))
    for name, wanted in {
        "Block_0/Conv_0": np.ones(()),
        "Block_0/Conv_1": 1 + 1 / outflow,
        "Block_1/Conv_0": (1 + 1 / inflow)[:, None],
    }.items():
        found = np.asarray(identity[name] / plain[name]) ** 2
        wanted = np.broadcast_to(wanted, found.shape)
        # Scores are comparable within a layer: up to one factor.
        chex.assert_trees_all_close(found / found.mean(), wanted / wanted.mean(), rtol=1e-3)


def _ends(edge: lap_jax.Edge) -> tuple[str, str]:
    return edge.source, edge.target
