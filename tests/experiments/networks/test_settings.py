"""The networks: their published sizes, and that each trains, prunes and retrains.

Full-size networks are looked at by their shapes alone; what is computed is narrow.
"""

import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lap_jax
from experiments.networks import PAPER_MODELS
from experiments.networks.resnet import Block, chain, chain_identity

# XLA compiles the default generator anew for every kernel, which takes longer than the tests.
KEY = jax.random.key(0, impl="rbg")
IMAGES = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
LABELS = jnp.arange(4)
CONVOLUTIONAL = ["conv6", "vgg11", "vgg16", "vgg19", "resnet18"]


def shapes(model: str) -> Any:
    """Variables of a full-size network, without values."""
    setting = PAPER_MODELS[model]
    side, channels = (32, 3) if model in CONVOLUTIONAL else (28, 1)
    inputs = jnp.zeros((1, side, side, channels))
    return jax.eval_shape(setting.build(10, setting.activation).init, KEY, inputs)


def narrow(model: str) -> Any:
    """A network with a sixteenth of the neurons in every layer."""
    setting = PAPER_MODELS[model]
    module = setting.build(10, setting.activation)
    return module.clone(widths=tuple(width // 16 for width in module.widths))


def count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("model", "parameters", "prunable"),
    [
        ("fcn", 1_149_010, 1_147_000),
        ("linear", 795_010, 794_000),
        # Frankle & Carbin (2019), Figure 2: 2.3M weights, 1.1M of them in convolutions; by hand
        # 9 (3 64 + 64^2 + 64 128 + 128^2 + 128 256 + 256^2) + 4096 256 + 256^2 + 2560.
        ("conv6", 2_262_602, 2_261_184),
        # As counted for the CIFAR-10 networks of github.com/kuangliu/pytorch-cifar, whose VGG's
        # convolutions have biases.
        ("vgg11", 9_231_114, 9_222_848),
        ("vgg16", 14_728_266, 14_715_584),
        ("vgg19", 20_040_522, 20_024_000),
        # The shortcuts' 64 128 + 128 256 + 256 512 = 172,032 weights are not pruned.
        ("resnet18", 11_173_962, 11_164_352 - 172_032),
    ],
)
def test_sizes_are_the_published_ones(model: str, parameters: int, prunable: int) -> None:
    variables = shapes(model)
    graph = lap_jax.chain(
        variables["params"], PAPER_MODELS[model].chain, variables.get("batch_stats")
    )
    assert count(variables["params"]) == parameters
    assert sum(layer.size for layer in graph.layers) == prunable
    chex.assert_type(jax.tree.leaves(variables), jnp.float32)


def test_conv6_has_half_its_weights_in_convolutions() -> None:
    params = shapes("conv6")["params"]
    convs = [params[name]["kernel"] for name in params if name.startswith("Conv")]
    assert count(convs) == 1_144_512


@pytest.mark.parametrize("model", PAPER_MODELS)
def test_the_chain_names_every_kernel_but_the_shortcuts(model: str) -> None:
    variables = shapes(model)
    graph = lap_jax.chain(
        variables["params"], PAPER_MODELS[model].chain, variables.get("batch_stats")
    )
    paths = [
        "/".join(k.key for k in path) for path, _ in jax.tree.leaves_with_path(variables["params"])
    ]
    kernels = {path for path in paths if path.endswith("kernel") and "shortcut" not in path}
    assert {layer.path for layer in graph.layers} == kernels
    norms = {path.removesuffix("/scale") for path in paths if path.endswith("scale")}
    norms = {norm for norm in norms if "shortcut" not in norm}
    assert {layer.norm for layer in graph.layers if layer.norm} == norms
    for name in graph.names:
        assert name in str(graph)
    assert [len(graph.into(name)) for name in graph.names] == [0] + [1] * (len(graph.names) - 1)


@pytest.mark.parametrize("model", PAPER_MODELS)
def test_steps_are_those_of_appendix_c(model: str) -> None:
    steps = {
        "fcn": (50, 50), "linear": (50, 50), "conv6": (30, 20), "vgg11": (35, 25),
        "vgg16": (50, 35), "vgg19": (60, 40), "resnet18": (35, 25),
    }  # fmt: skip
    setting = PAPER_MODELS[model]
    assert (setting.train_steps, setting.retrain_steps) == tuple(1000 * n for n in steps[model])
    assert setting.learning_rate == (1.2e-3 if model == "fcn" else 3e-4)
    assert setting.augment == (model in CONVOLUTIONAL)


def test_kept_fractions_per_level_are_those_of_the_authors() -> None:
    for model, wanted in {
        "fcn": [0.5] * 4 + [0.75],
        "conv6": [0.85] * 6 + [0.8] * 2 + [0.9],
        "vgg11": [0.85] * 8 + [0.9],
        "vgg16": [0.85] * 13 + [0.9],
        "vgg19": [0.85] * 16 + [0.9],
        "resnet18": [1.0] + [0.85] * 16 + [0.9],
    }.items():
        setting, variables = PAPER_MODELS[model], shapes(model)
        graph = lap_jax.chain(variables["params"], setting.chain, variables.get("batch_stats"))
        levels = lap_jax.paper_sparsity(graph, 1, setting.p, setting.q, setting.unpruned)
        assert [1 - level for level in levels.values()] == pytest.approx(wanted)


# VGG-16 and VGG-19 are VGG-11 but for their depth, with which the time to compile grows.
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, marks=pytest.mark.slow) if model in ("vgg16", "vgg19") else model
        for model in PAPER_MODELS
    ],
)
def test_trains_prunes_and_retrains(model: str) -> None:
    setting, module = PAPER_MODELS[model], narrow(model)
    variables = jax.jit(module.init)(KEY, IMAGES)
    params, stats = variables["params"], variables.get("batch_stats", {})
    graph = lap_jax.chain(params, setting.chain, stats)
    levels = lap_jax.paper_sparsity(graph, 4, setting.p, setting.q, setting.unpruned)
    everything = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params)
    adam = optax.adam(1e-2)

    @jax.jit
    def step(params: Any, stats: Any, state: Any) -> tuple[Any, Any, Any]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, changed = module.apply(
                {"params": params, "batch_stats": stats}, IMAGES, train=True,
                mutable=["batch_stats"],
            )  # fmt: skip
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
            return losses.mean(), changed.get("batch_stats", {})

        grads, stats = jax.grad(loss, has_aux=True)(params)
        updates, state = lap_jax.keep_pruned(adam, everything).update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state

    @jax.jit
    def start(params: Any, masks: Any) -> tuple[Any, Any]:
        pruned = lap_jax.apply_masks(params, masks)
        return pruned, lap_jax.keep_pruned(adam, masks).init(pruned)

    def fit(params: Any, stats: Any, masks: Any) -> tuple[Any, Any]:
        params, state = start(params, masks)
        for _ in range(2):
            params, stats, state = step(params, stats, state)
        return params, stats

    trained, trained_stats = fit(params, stats, everything)
    assert _all_move(stats, trained_stats)
    for method in ["LAP"] if model in ("vgg16", "vgg19") else ["MP", "LAP", "LAP-forward"]:
        masks = lap_jax.lookahead_masks(
            trained, graph, levels, method=method, batch_stats=trained_stats
        )
        masks = jax.tree.map(lambda keep, mask: keep & np.asarray(mask), everything, masks)
        retrained, new_stats = fit(trained, trained_stats, masks)
        chex.assert_trees_all_equal(retrained, lap_jax.apply_masks(retrained, masks))
        for name, level in levels.items():
            mask = _kernel(masks, name)
            assert mask.sum() == round((1 - level) * mask.size)
        assert _all_move(trained_stats, new_stats)
        assert _all_move(trained, retrained)


@pytest.mark.parametrize("model", PAPER_MODELS)
@pytest.mark.parametrize("train", [True, False])
def test_bfloat16_leaves_logits_parameters_and_statistics_in_float32(
    model: str, train: bool
) -> None:
    module = narrow(model).clone(dtype=jnp.bfloat16)
    variables = jax.eval_shape(module.init, KEY, IMAGES)
    apply = functools.partial(module.apply, train=train, mutable=["batch_stats"])
    logits, changed = jax.eval_shape(apply, variables, IMAGES)
    chex.assert_shape(logits, (4, 10))
    chex.assert_type(jax.tree.leaves((logits, variables, changed)), jnp.float32)


def test_bfloat16_is_computed_in_and_near_float32() -> None:
    exact = narrow("resnet18")
    rough = exact.clone(dtype=jnp.bfloat16)
    variables = jax.jit(rough.init)(KEY, IMAGES)
    found, wanted = (jax.jit(module.apply)(variables, IMAGES) for module in (rough, exact))
    chex.assert_type([found, wanted], jnp.float32)
    assert (found != wanted).any()
    chex.assert_trees_all_close(found, wanted, rtol=0, atol=0.05 * float(jnp.abs(wanted).max()))


def test_kernels_are_glorot_normal_with_tails_and_biases_are_zero() -> None:
    module = PAPER_MODELS["vgg11"].build(10, "relu").clone(widths=(64, 32, 8, 8, 8))
    params = jax.jit(module.init)(KEY, IMAGES)["params"]
    kernel = np.asarray(params["Conv_1"]["kernel"])  # 3x3, from 64 to 32
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * (64 + 32))), rel=0.02)
    # Of 18,432 normal numbers 0.27% lie beyond three standard deviations: 50 +- 7.
    assert 20 < (abs(kernel) > 3 * kernel.std()).sum() < 80
    biases = [params[name]["bias"] for name in params]
    chex.assert_trees_all_equal(biases, jax.tree.map(jnp.zeros_like, biases))


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
    variables = shapes("resnet18")
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
    variables = jax.jit(narrow("resnet18").init)(KEY, IMAGES)
    params, stats = variables["params"], variables["batch_stats"]
    plain, identity = (
        lap_jax.lookahead_scores(params, each, batch_stats=stats)
        for each in (chain()[:8], chain_identity()[:4])  # up to Block_1/Conv_0
    )
    squares = {name: np.asarray(_kernel(params, name)) ** 2 for name in plain}
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


def _all_move(before: Any, after: Any) -> bool:
    """Whether every array of a tree has changed somewhere."""
    pairs = zip(*map(jax.tree.leaves, (before, after)), strict=True)
    return all((np.asarray(old) != np.asarray(new)).any() for old, new in pairs)


def _kernel(params: Any, name: str) -> Any:
    return functools.reduce(lambda tree, key: tree[key], name.split("/"), params)["kernel"]
