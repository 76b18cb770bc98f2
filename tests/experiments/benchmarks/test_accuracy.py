"""The comparison of scores: arithmetic, data, models, and that it can be interrupted."""

import dataclasses
import functools
import json
import math
from pathlib import Path
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import accuracy as module
from experiments.benchmarks.__main__ import main
from experiments.benchmarks.accuracy import (
    CONTEXT,
    MODELS,
    Accuracy,
    Bench,
    Cell,
    Score,
    accuracy,
    cells_of,
    command_line,
    read,
    report,
    text_data,
    write,
)
from experiments.networks.charlm import CharLM
from experiments.networks.vit import ViT
from experiments.running.training import Trainer

KEY = jax.random.key(0, impl="rbg")
CELL = Cell("vit", "MP", 0, "digits", 0, 0, 1000, 300, 0.7, 1, 0)
MADE = {"jax": "1"}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A command that takes seconds: digits, three steps, networks of a few neurons."""
    small = {
        "vit": lambda classes, _: ViT(classes, width=8, depth=1, heads=2, patch=8),
        "charlm": lambda classes, _: CharLM(classes, width=8, depth=1, heads=2),
    }
    models = {
        name: model._replace(build=small.get(name, model.build), batch_size=4)
        for name, model in MODELS.items()
    }
    monkeypatch.setattr(module, "MODELS", models)
    return Accuracy(
        models=("vit",), ways=("MP", "LAP"), dataset="digits", images=64, evaluate_on=50,
        seeds=2, train_steps=3, retrain_steps=2, divisor=32, calibration=8, out=tmp_path,
    )  # fmt: skip


def somewhere(bench):
    """Return a network of random numbers, without compiling its initialisation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(bench._init, KEY)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 1, leaf.shape), jnp.float32),
                        shapes)  # fmt: skip


def removed(masks):
    """Count what masks remove, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(masks)
    return {jax.tree_util.keystr(path): int((~m).sum()) for path, m in leaves if not m.all()}


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
def test_every_way_prunes_the_same_layers_as_far(name, ways, tiny):
    cells = cells_of(dataclasses.replace(tiny, models=(name,), ways=ways, seeds=1))
    bench = Bench(tiny, cells[0])
    network = somewhere(bench)
    masks, weights, kept = zip(*(bench._masks(cell, network) for cell in cells), strict=True)
    assert len(set(weights)) == len(set(kept)) == 1
    assert kept[0] == pytest.approx((1 - cells[0].sparsity) * weights[0], abs=len(masks[0]))
    counts = [removed(each) for each in masks]
    assert all(count == counts[0] for count in counts)
    assert sum(counts[0].values()) == weights[0] - kept[0]
    for path in counts[0]:
        assert not any(name in path for name in ("head", "embed", "patches", "shortcut", "bias"))
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (network.params, *masks)]
    assert all(each == shapes[0] for each in shapes)


def test_vision_transformer_has_its_weights():
    """By hand: 48 64 + 64 patches, 16 64 positions, and in each of four blocks four times 64^2 +
    64, twice 256 64, 256 + 64 and two norms; a last norm; 64 10 + 10."""
    shapes = jax.eval_shape(ViT(10).init, KEY, jnp.zeros((1, 16, 16, 3)))["params"]
    block = 4 * (64**2 + 64) + 2 * 256 * 64 + 256 + 64 + 4 * 64
    wanted = 48 * 64 + 64 + 16 * 64 + 4 * block + 2 * 64 + 650
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == wanted


def test_language_model_does_not_look_ahead():
    model = CharLM(128, width=16, depth=2, heads=2)
    x = jax.random.randint(KEY, (2, 12), 0, 128)
    variables = model.init(KEY, x)
    changed = x.at[:, 7].add(1)
    apply = jax.jit(model.apply)
    before, after = apply(variables, x), apply(variables, changed)
    assert before.shape == (2, 12, 128)
    np.testing.assert_allclose(before[:, :7], after[:, :7], atol=1e-6)
    assert jnp.abs(before - after)[:, 7:].max((0, 2)).min() > 1e-4
    np.testing.assert_array_equal(before, apply(variables, x.astype(jnp.float32)))


def test_the_text_is_ascii_and_its_end_is_the_test():
    text = "\n".join(topics.values()).encode("ascii", "replace")
    cut = len(text) * 9 // 10
    data = text_data()
    windows = {
        split: np.concatenate([x, y[:, -1:]], 1).astype(np.uint8)
        for split, x, y in (
            ("train", data.train_x, data.train_y),
            ("test", data.test_x, data.test_y),
        )
    }
    np.testing.assert_array_equal(data.train_x[:, 1:], data.train_y[:, :-1])
    assert windows["train"].max() < data.classes == 128
    assert windows["train"][1].tobytes() == text[16:81]
    last = 16 * (len(windows["train"]) - 1)
    assert windows["train"][-1].tobytes() == text[last : last + 65]
    assert cut - 16 < last + 65 <= cut
    tested = windows["test"][:, :CONTEXT].tobytes()
    assert tested == text[cut : cut + len(tested)]
    assert len(text) - cut - len(tested) <= CONTEXT


def test_bits_per_character_of_a_guess(tiny):
    """Equal chances for 128 characters are seven bits."""
    command = dataclasses.replace(tiny, models=("charlm",))
    bench = Bench(command, cells_of(command)[0])
    network = bench._trainer.init(jax.random.key(0)[None])
    network.params["head"] = jax.tree.map(jnp.zeros_like, network.params["head"])
    everything = jax.tree.map(lambda leaf: jnp.ones(1, bool), network.params)
    (bits,) = bench._scores(bench._trainer.start(network, everything))
    assert bits == pytest.approx(7, abs=1e-4)


def test_the_table_compares_rows_of_the_same_network():
    retrained = {"MP": (60.0, 70.0), "LAP": (62.0, 76.0)}
    scores = [
        Score(dataclasses.replace(CELL, way=way, seed=seed), 1000, 300, 80.0 + seed, 10.0, value,
              1.0, MADE)
        for way, values in retrained.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    text = report(Accuracy(seeds=2), scores)
    assert "| | pruned | retrained | less MP's |" in text
    # Means 65 and 69; deviations 10 / sqrt(2) and 14 / sqrt(2); differences 2 and 6.
    assert "| MP | 10.00±0.00 | 65.00±7.07 |  |" in text
    assert "| LAP, traced | 10.00±0.00 | 69.00±9.90 | +4.00±2.83 |" in text
    assert "300 of 1,000 weights are kept, 0.3 of each layer but patches*, head*" in text
    assert "unpruned 80.50±0.71" in text


def test_the_command_is_written_without_folders():
    command = Accuracy(
        models=("vit", "conv6"), seeds=5, data_dir=Path("/secret"), out=Path("/other")
    )
    assert command_line(command) == (
        "python -m experiments.benchmarks accuracy --models vit conv6 --data-dir DIR --seeds 5"
    )


def test_scores_come_back_from_their_file(tmp_path):
    path = tmp_path / "cells.jsonl"
    assert read(path) == []
    scores = [Score(CELL, 10, 3, 1.5, 0.1, 0.3, 2.0, MADE)]
    write(scores, path)
    assert read(path) == scores
    path.write_text(json.dumps({"cell": {"model": "old"}}) + "\n")
    with pytest.raises(ValueError, match="name another --out"):
        read(path)


def test_what_is_done_is_not_done_again(tiny, monkeypatch):
    monkeypatch.setattr(Trainer, "width", 1)
    tiny = dataclasses.replace(tiny, seeds=1)
    whole = accuracy(dataclasses.replace(tiny, out=tiny.out / "whole"))
    assert "**vit** on digits at 16x16" in whole

    # Interrupted when one of two cells is written.
    real = module.write

    def write_and_die(scores, path):
        real(scores, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        accuracy(tiny)
    assert len(read(tiny.out / "cells.jsonl")) == 1

    monkeypatch.setattr(module, "write", real)
    monkeypatch.setattr(Bench, "_train", None)
    accuracy(tiny)
    both = [read(tiny.out / part / "cells.jsonl") for part in ("", "whole")]
    strip = functools.partial(dataclasses.replace, seconds=0.0)
    assert list(map(strip, both[0])) == list(map(strip, both[1]))

    monkeypatch.setattr(module, "Bench", None)
    again = accuracy(tiny)
    assert (tiny.out / "accuracy.md").read_text() in again
    assert str(tiny.out) not in (tiny.out / "accuracy.md").read_text()


def test_flags_that_do_not_fit(capsys, tmp_path):
    for flags, message in (
        (["--ways", "LAPP"], "unknown 'LAPP'; there are MP"),
        (["--seeds", "0"], "--seeds: expected 1 or more"),
        (["--models", "conv6"], "cifar10 needs --data-dir"),
    ):
        assert main(["accuracy", *flags, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
