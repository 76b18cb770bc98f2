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


# A dense and a residual network stand for all: the time to compile grows with the depth.
@pytest.mark.parametrize(
    "model",
    [
        model if model in ("fcn", "resnet18") else pytest.param(model, marks=pytest.mark.slow)
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
            trained, graph, levels, method=lap_jax.METHODS[method], batch_stats=trained_stats
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


def _all_move(before: Any, after: Any) -> bool:
    """Whether every array of a tree has changed somewhere."""
    pairs = zip(*map(jax.tree.leaves, (before, after)), strict=True)
    return all((np.asarray(old) != np.asarray(new)).any() for old, new in pairs)


def _kernel(params: Any, name: str) -> Any:
    return functools.reduce(lambda tree, key: tree[key], name.split("/"), params)["kernel"]
