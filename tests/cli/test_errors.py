"""Whatever is wrong, it is one line on stderr and status 2, and nothing is written."""

import os
from pathlib import Path

import pytest
from flax import serialization

from lap_jax.cli.errors import BadInput
from lap_jax.cli.main import main
from tests.cli import networks

MODEL = "--model tests.cli.networks:linen"
PRUNE = f"prune dense.msgpack {MODEL} --sparsity 0.5"
WRONG = {
    "": "Expected one of {inspect, prune, shrink, diff}",
    "inspekt dense.msgpack": "inspekt",
    "inspect": "Missing from lap-jax inspect: PATH",
    "inspect dense.msgpack --modle x": "Unrecognized options: --modle",
    "inspect nowhere": "'nowhere' is not there",
    "inspect .": "holds no checkpoint of Orbax",
    "inspect text.txt": "neither a safetensors file nor one of flax.serialization",
    "inspect dense.msgpack --model nowhere:net": "No module named 'nowhere'",
    f"prune text.txt {MODEL} --sparsity 0.5 --dry-run": "neither a safetensors file",
    PRUNE: "nothing to write: give --out, or --dry-run",
    f"{PRUNE} --scope globl --dry-run": "invalid choice 'globl'",
    f"{PRUNE} --unit cell --dry-run": "--unit is 'cell'",
    f"{PRUNE} --pin nobody --dry-run": "nobody",
    f"{PRUNE} --out nowhere/x.msgpack": "--out: there is no folder 'nowhere'",
    f"{PRUNE} --out x.npz": "ends in '.npz'",
    f"{PRUNE} --out text.txt": "ends in '.txt'",
    f"{PRUNE} --out folder --overwrite": "'folder' is a folder, and no checkpoint of Orbax",
    f"{PRUNE} --masks x": "--masks is 'x': expected a name in .safetensors",
    f"{PRUNE} --out x.msgpack --report x.msgpack": "--report and --out are the same file",
    f"{PRUNE} --out dense.msgpack": "is there already: choose another name, or --overwrite",
    f"prune dense.msgpack {MODEL} --sparsity 1.5 --dry-run": "the sparsity of layer",
    f"prune dense.msgpack {MODEL} --sparsity a=0.5 --dry-run": "sparsity",
    f"shrink dense.msgpack {MODEL} --masks text.txt --dry-run": "is not a safetensors file",
    f"shrink dense.msgpack {MODEL}": "nothing to write",
    "diff dense.msgpack nowhere": "'nowhere' is not there",
}


@pytest.mark.parametrize("line", WRONG)
def test_one_line_status_2_and_nothing_written(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dense.msgpack").write_bytes(serialization.to_bytes(networks.variables()))
    Path("text.txt").write_text("no checkpoint\n")
    Path("folder").mkdir()
    before = sorted(os.listdir())
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert WRONG[line] in captured.err
    assert sorted(os.listdir()) == before


def test_it_is_no_value_error_that_others_could_raise() -> None:
    assert issubclass(BadInput, Exception)
    assert not issubclass(BadInput, ValueError)
