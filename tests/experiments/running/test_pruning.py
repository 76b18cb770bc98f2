"""What each way to prune takes from a network, and from which layers."""

from dataclasses import replace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from experiments.benchmarks.accuracy import Accuracy, runs_of
from experiments.cli.wanted import trials_of
from experiments.data.source import Dataset
from experiments.networks import MODELS
from experiments.networks.charlm import CharLM
from experiments.networks.vit import ViT
from experiments.running.pruning import (
    counts,
    graph_of,
    masks_of,
    method_of,
    module_of,
    rate_of,
    repaired,
    shuffled,
    sparsity_of,
    weights_left,
)
from experiments.running.training import Network
from experiments.running.trials import shrunk
from experiments.trial import RATES, Trial, as_declared, choices_of

TRIAL = Trial("linear", "none", "toy", "LAP", 4, 0, 20, 10, 16, 1e-2)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def images(side: int) -> Dataset:
    x, y = noise(16, side, side, 3), np.zeros(16, np.int32)
    return Dataset("images", x, y, x, y, 10)


def text() -> Dataset:
    x = np.random.default_rng(0).integers(0, 128, (16, 12))
    return Dataset("text", x.astype(np.float32), x.astype(np.int32), x, x, 128)


def somewhere(trial: Trial, dataset: Dataset) -> Network:
    """A network of random numbers, without compiling its initialisation."""
    example = jax.ShapeDtypeStruct((1, *dataset.train_x.shape[1:]), jnp.float32)
    shapes = jax.eval_shape(module_of(trial, dataset.classes).init, jax.random.key(0), example)
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.1, 1, x.shape), jnp.float32), shapes)
    return Network(values["params"], values.get("batch_stats", {}))


def removed(masks: Any) -> dict[str, int]:
    """Count what masks remove, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(masks)
    return {jax.tree_util.keystr(path): int((~m).sum()) for path, m in leaves if not m.all()}


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers of one block and a few neurons."""
    for name, build in {
        "vit": lambda classes, _: ViT(classes, width=8, depth=1, heads=2, patch=8),
        "charlm": lambda classes, _: CharLM(classes, width=8, depth=1, heads=2),
    }.items():
        monkeypatch.setitem(MODELS, name, MODELS[name]._replace(build=build))


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("resnet18", ("MP", "Eq5", "LAP")),
        ("conv6", ("MP", "lags")),
        ("vgg11", ("MP", "all")),
        ("vit", ("MP", "LAP", "all")),
        ("charlm", ("MP", "LAP", "LAP-measured")),
        pytest.param("resnet18", ("MP", "lags-path", "Wanda"), marks=pytest.mark.slow),
    ],
)
def test_every_way_prunes_the_same_layers_as_far(name: Any, ways: tuple[str, ...]) -> None:
    command = Accuracy(models=(name,), ways=ways, seeds=1, divisor=32, calibration=8)
    trials = trials_of(runs_of(command)[0])
    dataset = images(trials[0].side) if trials[0].side else text()
    network = somewhere(trials[0], dataset)
    masks = [masks_of(trial, network, dataset) for trial in trials]
    gone = [removed(each) for each in masks]
    assert all(each == gone[0] for each in gone)
    graph = graph_of(as_declared(trials[0]), dataset)
    sizes = {layer.name: layer.size for layer in graph.layers}
    pruned = {n: level for n, level in sparsity_of(trials[0], dataset).items() if level}
    assert sum(gone[0].values()) == sum(
        sizes[name] - round((1 - level) * sizes[name]) for name, level in pruned.items()
    )
    assert len(gone[0]) == len(pruned)
    for path in gone[0]:
        assert not any(name in path for name in ("head", "embed", "patches", "shortcut", "bias"))
    for each in masks:
        chex.assert_trees_all_equal_shapes(each, network.params)


def test_the_traced_graph_takes_the_level_of_the_declared_one() -> None:
    dataset = images(8)
    trial = replace(TRIAL, model="resnet18", tau=14, divisor=32)
    declared = sparsity_of(trial, dataset)
    traced = sparsity_of(replace(trial, graph="traced"), dataset)
    more = set(traced) - set(declared)
    assert more == {f"Block_{block}/shortcut" for block in (2, 4, 6)}
    assert {name: level for name, level in traced.items() if name not in more} == declared
    assert not any(traced[name] for name in more)


def test_a_shuffled_mask_keeps_as_many_elsewhere() -> None:
    masks = {"a": np.arange(100).reshape(10, 10) < 30, "b": np.ones(3, bool)}
    moved = jax.device_get(shuffled(masks, jax.random.key(0)))
    assert moved["a"].sum() == 30
    assert (moved["a"] != masks["a"]).any()
    assert moved["b"].all()


def test_random_pruning_is_another_for_each_seed() -> None:
    dataset = Dataset("toy", noise(9, 4, 4, 1), np.zeros(9, np.int32), noise(1), noise(1), 3)
    network = somewhere(TRIAL, dataset)
    masks = {
        (seed, tau): np.asarray(
            masks_of(replace(TRIAL, method="RP", tau=tau, seed=seed), network, dataset)["Dense_0"][
                "kernel"
            ]
        )
        for seed in (0, 1)
        for tau in (2, 4)
    }
    assert (masks[0, 4] <= masks[0, 2]).all()  # a higher level keeps a part
    assert (masks[0, 2] != masks[1, 2]).any()


def test_a_learning_rate_falls_to_zero_over_the_steps_of_training_and_of_retraining() -> None:
    for trial, steps in ((TRIAL, 10), (replace(TRIAL, retrain_steps=0), 20)):
        done = np.arange(steps + 1) / steps
        wanted = {
            "linear": 1e-2 * (1 - done),
            "cosine": 1e-2 * np.cos(done * np.pi / 2) ** 2,  # half a period of 1 + cos
        }
        for decay, rates in wanted.items():
            rate = rate_of(replace(trial, decay=decay))
            assert callable(rate)
            np.testing.assert_allclose([rate(i) for i in range(steps + 1)], rates, atol=1e-8)
    assert rate_of(TRIAL) == 1e-2


def test_effective_weights_are_counted_and_kept_where_asked_for() -> None:
    dataset = Dataset("toy", noise(9, 4, 4, 1), np.zeros(9, np.int32), noise(1), noise(1), 3)
    trial = replace(TRIAL, method="RP", tau=6)
    network = somewhere(trial, dataset)
    plain, effective = (
        counts(each, dataset, masks_of(each, network, dataset))
        for each in (trial, replace(trial, effective=True))
    )
    assert [layer.kept for layer in plain] == [layer.kept for layer in effective]
    assert all(0 < (layer.effective or 0) < layer.kept for layer in plain)
    assert all(layer.effective == layer.kept for layer in effective)


def test_steps_are_those_of_the_way_or_the_methods_own() -> None:
    found = [method_of(replace(TRIAL, **choices_of(way))).steps for way in
             ("LAP", "LAP steps=3", "LAP-backward-seq", "LAP-backward-seq steps=1")]  # fmt: skip
    assert found == [1, 3, 5, 1]


def test_what_is_effective_is_told_by_the_network_with_its_shortcuts() -> None:
    dataset = images(8)
    trial = replace(TRIAL, model="resnet18", tau=14, divisor=32)
    masks = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), somewhere(trial, dataset).params)
    masks["Block_0"]["Conv_0"]["kernel"][:] = False
    layers = {layer.name: layer for layer in counts(trial, dataset, masks)}
    assert layers["Block_0/Conv_1"].effective == layers["Block_0/Conv_0"].effective == 0
    others = set(layers) - {"Block_0/Conv_0", "Block_0/Conv_1"}
    assert all(layers[name].effective == layers[name].size for name in others)


def total(trial: Trial, dataset: Dataset) -> float:
    graph, levels = graph_of(trial, dataset), sparsity_of(trial, dataset)
    return sum((1 - levels[layer.name]) * layer.size for layer in graph.prunable)


@pytest.mark.parametrize("rates", RATES)
def test_rates_spread_as_many_weights_over_the_layers_in_another_way(rates: str) -> None:
    dataset = images(8)
    trial = replace(TRIAL, tau=5, divisor=10)
    spread = replace(trial, rates=rates)
    assert total(spread, dataset) == pytest.approx(total(trial, dataset))
    levels = sparsity_of(spread, dataset)
    assert levels != sparsity_of(trial, dataset)
    if rates == "uniform":
        assert len(set(levels.values())) == 1
    conv = replace(TRIAL, model="vgg11", sparsity=0.9, divisor=32, rates=rates)
    assert sparsity_of(conv, images(32))["Conv_0"] == 0  # what its setting leaves whole stays whole


@pytest.mark.parametrize("scope", ["global", "lamp"])
def test_a_scope_over_all_layers_takes_as_many_as_the_level(scope: str) -> None:
    dataset = images(8)
    trial = replace(TRIAL, tau=5, divisor=10, method="LAP")
    network = somewhere(trial, dataset)
    kept = [
        sum(layer.kept for layer in counts(each, dataset, masks_of(each, network, dataset)))
        for each in (trial, replace(trial, scope=scope))
    ]
    assert abs(kept[0] - kept[1]) <= len(graph_of(trial, dataset).layers)


@pytest.mark.parametrize(
    ("model", "dataset", "divisor", "way"),
    [
        ("linear", images(8), 10, "MP"),
        pytest.param("vgg11", images(32), 16, "LAP", marks=pytest.mark.slow),
        pytest.param(
            "charlm", text(), 1, "LAP measured=active calibration=4", marks=pytest.mark.slow
        ),
    ],
)
def test_whole_neurons_go_until_the_parameters_are_those_of_the_level(
    model: str, dataset: Dataset, divisor: int, way: str
) -> None:
    trial = replace(TRIAL, model=model, tau=0, sparsity=0.6, divisor=divisor)
    trial = replace(trial, **choices_of(f"{way} scope=neuron"))
    network = somewhere(trial, dataset)
    masks = masks_of(trial, network, dataset)
    chex.assert_trees_all_equal_shapes(masks, network.params)
    total = sum(leaf.size for leaf in jax.tree.leaves(network.params))
    removed = sum(size - left for left, size in weights_left(trial, dataset).values())
    left = shrunk(trial, dataset, network, masks).parameters[1]
    assert 0.8 * (total - removed) < left <= total - removed
    if model == "charlm":  # its residual stream stays, and with it the embedding and the head
        assert masks["embed"]["embedding"].all()
        assert masks["head"]["kernel"].all()


def test_repair_gives_back_the_spread_of_what_channels_give() -> None:
    dataset = images(8)
    trial = replace(TRIAL, tau=3, divisor=10, method="MP")
    network = somewhere(trial, dataset)
    masks = masks_of(trial, network, dataset)
    assert repaired(trial, network, masks, dataset) is network
    mended = repaired(replace(trial, repair="channels", calibration=16), network, masks, dataset)
    module, x = module_of(trial, dataset.classes), jnp.asarray(dataset.train_x)
    dense, pruned, again = (
        jnp.std(jnp.asarray(module.apply({"params": params}, x)), 0)
        for params in (network.params, lap_jax.apply_masks(network.params, masks), mended.params)
    )
    far, near = (float(jnp.abs(each - dense).max()) for each in (pruned, again))
    assert near < 1e-3 * float(dense.max()) < far
