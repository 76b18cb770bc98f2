"""Commands from files to files, in this process."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import serialization
from jax import export

import lap_jax
from lap_jax.cli.checkpoints import flat, load, write
from lap_jax.cli.main import main
from lap_jax.cli.models import paths_of
from tests.cli import networks

MODEL = ["--model", "tests.cli.networks:linen"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("dense.msgpack").write_bytes(serialization.to_bytes(networks.variables()))
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    """Run a command with ``--json``; return what it says."""
    assert main([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def masks_by_hand(sparsity: float, **options: Any) -> Any:
    variables = networks.variables()
    graph = lap_jax.trace(networks.Dense(), variables, networks.INPUTS)
    return lap_jax.lookahead_masks(variables, graph, sparsity, **options)


def test_inspect_counts_what_the_library_counts(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "inspect", "dense.msgpack", *MODEL)
    variables = networks.variables()
    assert found["facts"]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert (found["facts"]["weights"], found["facts"]["sparsity"]) == (6 * 8 + 8 * 3, 0.0)
    assert found["facts"]["multiply_adds"] == 2 * (6 * 8 + 8 * 3)  # two examples
    assert [row["layer"] for row in found["layers"]] == ["Dense_0", "Dense_1"]
    assert found["warnings"] == []


def test_inspect_without_a_model_counts_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {"a/kernel": np.array([[0.0, 1.0]]), "opt_state/0/mu": np.ones((2, 2))}
    write(Path("x.safetensors"), arrays, {})
    found = told(capsys, "inspect", "x.safetensors")
    assert found["leaves"] == [
        {"leaf": "a", "shape": [1, 2], "weights": 2, "kept": 1, "sparsity": 0.5}
    ]
    assert (found["facts"]["numbers"], "neurons" in found["facts"]) == (2, False)
    write(Path("biases.safetensors"), {"b": np.ones(2)}, {})
    assert told(capsys, "inspect", "biases.safetensors")["facts"]["numbers"] == 2


@pytest.mark.parametrize("name", ["out.safetensors", "out.msgpack", "out"])
def test_prune_writes_zeros_where_the_masks_are(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, "prune", "dense.msgpack", *MODEL, "--sparsity", "0.75", "--out", name,
                 "--skip-work")  # fmt: skip
    masks = masks_by_hand(0.75)
    expected = flat(lap_jax.apply_masks(networks.variables(), masks))
    arrays = load(Path(name)).arrays
    assert set(arrays) == set(expected)
    for path, array in expected.items():
        np.testing.assert_array_equal(arrays[path], array)
    assert found["facts"]["kept"] == lap_jax.summarize(masks).total.kept == 18
    assert found["written"] == [name]


def test_prune_writes_masks_and_a_compact_file(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sparsity", "Dense_0=0.5", "*=0.75", "--effective", "--method", "MP"]
    told(capsys, "prune", "dense.msgpack", *MODEL, *arguments, "--masks", "m.safetensors",
         "--compact", "c.safetensors", "--skip-work")  # fmt: skip
    masks = masks_by_hand({"Dense_0": 0.5, "*": 0.75}, method="MP", effective=True)  # type: ignore[arg-type]
    variables = networks.variables()
    read = lap_jax.load_masks("m.safetensors", variables)
    for mine, own in zip(jax.tree.leaves(read), jax.tree.leaves(masks), strict=True):
        np.testing.assert_array_equal(mine, own)
    assert lap_jax.read_metadata("m.safetensors")["sparsity"] == {"Dense_0": 0.5, "*": 0.75}
    params, read = lap_jax.load_pruned("c.safetensors", variables)
    np.testing.assert_array_equal(
        params["params"]["Dense_0"]["kernel"],
        lap_jax.apply_masks(variables, masks)["params"]["Dense_0"]["kernel"],
    )


def test_a_dry_run_and_a_warning_under_strict_write_nothing(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    arguments = ["prune", "dense.msgpack", *MODEL, "--sparsity", "0.9", "--skip-work"]
    assert told(capsys, *arguments, "--dry-run", "--out", "x.msgpack")["written"] == []
    found = told(capsys, *arguments, "--out", "x.msgpack", "--strict", status=1)
    assert (len(found["warnings"]), found["written"]) == (1, [])
    assert "do nothing" in found["warnings"][0]
    assert os.listdir(folder) == ["dense.msgpack"]
    assert main([*arguments, "--out", "x.msgpack"]) == 0
    out = capsys.readouterr().out
    assert "warning: " in out
    assert out.endswith("wrote x.msgpack\n")
    assert main([*arguments, "--out", "x.msgpack"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*arguments, "--out", "x.msgpack", "--overwrite"]) == 0


def test_prune_neurons_shrink_and_run_without_the_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = told(capsys, "prune", "dense.msgpack", *MODEL, "--sparsity", "0.5", "--unit", "neuron",
                 "--out", "pruned.msgpack", "--report", "page.html")  # fmt: skip
    assert found["facts"]["dead_neurons"] == 4
    assert found["facts"]["multiply_adds_if_shrunk"] == 2 * (6 * 4 + 4 * 3)
    assert found["written"] == ["pruned.msgpack", "page.html"]
    page = Path("page.html").read_text()
    assert "<svg" in page
    assert "lap-jax prune dense.msgpack --model tests.cli.networks:linen" in page
    found = told(capsys, "shrink", "pruned.msgpack", *MODEL, "--out", "small.safetensors",
                 "--program", "small.bin")  # fmt: skip
    assert found["facts"]["parameters_if_shrunk"] < found["facts"]["parameters"]
    arrays = load(Path("small.safetensors")).arrays
    assert arrays["params/Dense_0/kernel"].shape == (6, 4)
    assert arrays["batch_stats/BatchNorm_0/mean"].shape == (4,)
    masked = networks.variables()
    masked = jax.tree.unflatten(
        jax.tree.structure(masked),
        [load(Path("pruned.msgpack")).arrays[p] for p in paths_of(masked)],
    )
    expected: Any = networks.Dense().apply(masked, networks.INPUTS)
    program = export.deserialize(bytearray(Path("small.bin").read_bytes()))
    np.testing.assert_allclose(program.call(networks.INPUTS), expected, rtol=1e-5, atol=1e-6)


def test_shrink_takes_masks_and_leaves_what_trains(capsys: pytest.CaptureFixture[str]) -> None:
    variables = networks.variables()
    graph = lap_jax.trace(networks.Dense(), variables, networks.INPUTS)
    masks = lap_jax.lookahead_masks(variables, graph, 0.5, scope=lap_jax.Scope(unit="neuron"))
    lap_jax.save_masks("m.safetensors", masks, variables)
    found = told(capsys, "shrink", "dense.msgpack", *MODEL, "--masks", "m.safetensors", "--no-fold",
                 "--out", "small")  # fmt: skip
    small = lap_jax.shrink(networks.Dense(), variables, masks, networks.INPUTS, fold=False)
    assert found["facts"]["parameters_if_shrunk"] == small.parameters[1]
    for path, array in flat(small.variables).items():
        np.testing.assert_array_equal(load(Path("small")).arrays[path], array)
    told(capsys, "shrink", "dense.msgpack", *MODEL, "--masks", "m.safetensors", "--out", "even",
         "--multiple-of", "3")  # fmt: skip
    even = lap_jax.shrink(networks.Dense(), variables, masks, networks.INPUTS, multiple_of=3)
    assert even.parameters[1] > small.parameters[1]
    for path, array in flat(even.variables).items():
        np.testing.assert_array_equal(load(Path("even")).arrays[path], array)
    found = told(capsys, "shrink", "dense.msgpack", *MODEL, "--dry-run", "--strict", status=1)
    assert "nothing is left out" in found["warnings"][0]


def test_layers_of_a_stack_are_written_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    stack = {
        "in": rng.normal(size=(2, 6, 8)).astype(np.float32),
        "out": rng.normal(size=(2, 8, 6)).astype(np.float32),
    }
    stack["out"][0, 2:], stack["out"][1, 5:] = 0, 0  # two neurons are read, and five
    write(Path("stack.safetensors"), stack, {})
    told(capsys, "shrink", "stack.safetensors", "--model", "tests.cli.networks:of_a_scan",
         "--unstack", "--out", "small.safetensors")  # fmt: skip
    arrays = load(Path("small.safetensors")).arrays
    assert {name: array.shape for name, array in arrays.items()} == {
        "in/0": (6, 2), "in/1": (6, 5), "out/0": (2, 6), "out/1": (5, 6),
    }  # fmt: skip
    np.testing.assert_array_equal(arrays["in/1"], stack["in"][1, :, :5])


def test_moments_of_an_optimizer_are_left_out_with_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arrays = flat(networks.variables())
    moments = {f"opt_state/0/mu/{name}": array for name, array in arrays.items()}
    write(Path("state.msgpack"), {**arrays, **moments}, {})
    found = told(capsys, "prune", "state.msgpack", *MODEL, "--sparsity", "0.5", "--out",
                 "out.msgpack", "--skip-work")  # fmt: skip
    assert "start the optimizer anew" in found["warnings"][-1]
    assert set(load(Path("out.msgpack")).arrays) == set(arrays)


def test_diff_tells_by_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "dense.msgpack", *MODEL, "--sparsity", "0.5", "--skip-work", "--out",
                 "pruned"]) == 0  # fmt: skip
    capsys.readouterr()
    assert told(capsys, "diff", "pruned", "pruned")["differs"] is False
    found = told(capsys, "diff", "dense.msgpack", "pruned", status=1)
    assert found["differs"] is True
    assert [row["leaf"] for row in found["differences"]] == ["Dense_0/kernel", "Dense_1/kernel"]
    assert sum(row["only_a"] for row in found["masks"]) == 36
    assert main(["diff", "dense.msgpack", "pruned"]) == 1
    assert "kept by both" in capsys.readouterr().out


def test_nan_is_told_by_inspect_and_refused_by_prune(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = flat(networks.variables())
    arrays["params/Dense_0/kernel"] = np.full((6, 8), np.nan, np.float32)
    write(Path("nan.msgpack"), arrays, {})
    found = told(capsys, "inspect", "nan.msgpack", *MODEL, "--skip-work")
    assert found["warnings"] == [
        "'params/Dense_0/kernel' holds 48 numbers that are NaN or infinite"
    ]
    assert main(["prune", "nan.msgpack", *MODEL, "--sparsity", "0.5", "--out", "x"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not Path("x").exists()
