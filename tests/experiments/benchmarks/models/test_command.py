import contextlib
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.__main__ import main
from experiments.benchmarks.models import command
from experiments.benchmarks.models.catalogue import entries
from experiments.benchmarks.models.checkouts import imported
from experiments.benchmarks.models.example import Example, noise
from experiments.benchmarks.models.row import Entry, Row, at_most, found, missing
from experiments.benchmarks.models.shrunk import (
    Shrunk,
    audible,
    shrunk,
    shrunk_table,
    varied,
)
from experiments.benchmarks.models.table import from_json, table, to_json
from lap_jax import PruningError


def tiny() -> Example:
    params = {"a": noise(3, 4), "b": noise(4, 2), "position": noise(5, 3)}

    def network(p: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu((x + p["position"]) @ p["a"]) @ p["b"]

    return Example(network, params, (noise(2, 5, 3),))


def broken() -> Example:
    raise RuntimeError("first line\nsecond line")


TINY = Entry("plain", "tiny", "float32", tiny)
KNOWN = [
    TINY,
    Entry("plain", "broken", "float32", broken),
    Entry("nowhere", "model", "float32", tiny, "no_such_package"),
    Entry("checkout", "model", "float32", tiny, folder=""),
]


def test_a_row_says_what_was_read_and_that_it_is_right() -> None:
    row = found(TINY, {"jax": "1"})
    assert (row.parameters, row.layers, row.kernels) == (12 + 8 + 15, 2, 2)
    assert [each.partition(":")[0] for each in row.unread] == ["position"]
    assert (row.others, row.unsaid, row.lost) == (0, (), ())
    assert (row.edges, row.agree, row.error) == (1, 1, "")
    assert row.first > 0


def test_a_model_with_the_graph_of_another_is_not_checked_again() -> None:
    plain = found(TINY, {}, look=False)
    row = found(TINY, {}, like=replace(plain, differ=("x",)))
    assert (row.same, row.graph, row.differ, row.first) == (True, plain.graph, ("x",), 0)
    row = found(TINY, {}, look=False, like=replace(plain, graph="another"))
    assert (row.same, row.differ, row.first > 0) == (False, (), True)
    assert "| as float32 |" in table([replace(row, same=True)])


def test_what_is_missing_or_broken_is_a_row_too() -> None:
    rows = [found(entry, {}) for entry in KNOWN[1:]]
    assert rows[0].error == "cannot be built: RuntimeError: first line"
    assert rows[1].missing == "no_such_package is not installed"
    assert "folder of a checkout" in rows[2].missing


def test_a_row_that_takes_too_long_ends_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(*_: Any) -> None:
        while True:
            pass

    monkeypatch.setattr("experiments.benchmarks.models.row._masks", lambda *_: 0.1)  # no compiler
    monkeypatch.setattr("experiments.benchmarks.models.row._judged", forever)
    before = signal.getsignal(signal.SIGPROF)
    row = found(TINY, {}, limit=2.0)
    assert row.error == "oracle: TimeoutError: more than 2 s of CPU"
    assert row.kernels == 2
    assert signal.getsignal(signal.SIGPROF) is before


def test_the_table_lists_what_differs() -> None:
    fine = Row("a", "one", "float32", {"jax": "1"}, 10, 2, 2, edges=3, agree=3, first=1.0)
    odd = replace(fine, model="two", edges=4, stopped=1, differ=("x -> y: not in the graph",),
                  lost=("z",), unread=("z",), first=11.0)  # fmt: skip
    text = table([fine, odd, replace(fine, model="three", layers=0, error="trace: a | b")])
    assert "| one | float32 | 10 | 2 | 0 | 0 | 0 | 3/3 |" in text
    assert "| two | float32 | 10 | 2 | 1, **1** | 0 | 0 | 3/3 + 1 |" in text
    assert "edges: x -> y: not in the graph" in text
    assert "masks: a two (11 s)." in text
    assert "trace: a \\| b" in text
    assert "1 read whole" in text


def test_rows_come_back_from_a_file() -> None:
    rows = [Row("a", "one", "float32", {"jax": "1"}, differ=("x", "y"))]
    assert from_json(to_json(rows), Row) == rows
    with pytest.raises(ValueError, match="another version"):
        from_json(json.dumps([{"strange": 1}]), Row)


def test_the_command_goes_on_with_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def counted(
        entry: Entry, versions: dict[str, str], look: bool, limit: float, like: Row | None
    ) -> Row:
        done.append(entry.name)
        return Row(entry.library, entry.model, entry.dtype, versions, missing=missing(entry))

    monkeypatch.setattr(command, "entries", lambda *_: KNOWN)
    monkeypatch.setattr(command, "found", counted)
    flags = ["models", "--out", str(tmp_path)]
    assert main([*flags, "--only", "plain/*"]) == 0
    assert done == ["plain/tiny/float32", "plain/broken/float32"]
    assert main(flags) == 0
    assert done[2:] == ["nowhere/model/float32", "checkout/model/float32"]
    assert main([*flags, "--only", "plain/tiny", "--again"]) == 0
    assert done[4:] == ["plain/tiny/float32"]
    assert len(from_json((tmp_path / "models.json").read_text(), Row)) == 4
    assert (tmp_path / "models.md").read_text() in capsys.readouterr().out
    monkeypatch.setattr(command, "digest_of", lambda _: "other")
    assert main([*flags, "--only", "plain/tiny"]) == 0  # rows stay, whatever has changed here
    assert "1 rows are of other files" in capsys.readouterr().out
    monkeypatch.setattr(command, "versions_of", lambda _: {"jax": "another"})
    assert main([*flags, "--only", "plain/tiny"]) == 0
    assert done[5:] == ["plain/tiny/float32"]
    assert main([*flags, "--only", "strange"]) == 2
    assert "no row matches 'strange'" in capsys.readouterr().err


def test_list_builds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--list", "--only", "flax/*"]) == 0
    assert "flax/Linen MLP/float32" in capsys.readouterr().out.splitlines()


def test_rows_have_names_of_their_own() -> None:
    names = [entry.name for entry in entries(None, None)]
    assert len(set(names)) == len(names)


def test_a_module_of_a_checkout_is_imported_again_and_again(tmp_path: Path) -> None:
    """Of folders without files of their own, too."""
    for place in ("some", "other"):
        inner = tmp_path / place / "checked_out" / "models" / "deep"
        inner.mkdir(parents=True)
        (inner.parent / "__init__.py").write_text("")
        (inner / "net.py").write_text(f"WHERE = {place!r}\n")
    before = set(sys.modules)
    for place in ("some", "other", "some"):
        module = imported(tmp_path / place, "checked_out.models.deep.net")
        assert place == module.WHERE
        assert set(sys.modules) == before


def test_a_limit_that_a_callback_swallows_comes_again() -> None:
    def spin() -> None:
        while True:
            pass

    def swallowing() -> None:
        with contextlib.suppress(TimeoutError):
            spin()
        spin()

    with pytest.raises(TimeoutError, match="more than 0 s of CPU"), at_most(0.2):
        swallowing()


@pytest.mark.slow
def test_a_model_is_shrunk_in_three_ways() -> None:
    row = shrunk(TINY, {"jax": "1"})
    assert (row.error, row.parameters, row.neurons) == ("", 12 + 8 + 15, 6 + 4 + 15)
    assert (row.sparsity, row.full) == (0.8, ())
    assert 0 < row.weights < row.parameters
    assert row.difference <= 1e-5
    text = shrunk_table([row, shrunk(KNOWN[1], {}), shrunk(KNOWN[2], {})])
    assert "1 models: 1 shrink" in text
    assert "| tiny | float32 | 35 | 25 (71%) | 80%: " in text
    assert "plain broken, float32: cannot be built: RuntimeError: first line" in text
    assert "1 of nowhere" in text


def test_what_inputs_change_is_heard_and_told() -> None:
    quiet = {"kernel": jnp.full((4, 3), 0.01), "bias": jnp.ones(3)}
    loud = audible(quiet)
    assert np.allclose(loud["kernel"], 0.5)  # one over the root of four inputs
    assert np.array_equal(loud["bias"], quiet["bias"])
    same = audible({"kernel": jnp.full((4, 3), 2.0)})
    assert np.array_equal(same["kernel"], np.full((4, 3), 2.0))
    x = jnp.array([[1.0, 2.0, 3.0, 4.0]])
    first = Example(lambda v, x: x[:, :1] * v, jnp.float32(2), (x,))
    assert varied(first) == 3.0  # 2 becomes 8
    assert varied(first._replace(function=lambda v, x: v + 0 * x)) == 0


def test_what_shrinks_wrong_is_an_error_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise PruningError("output at (0,) differs")

    monkeypatch.setattr("experiments.benchmarks.models.shrunk.shrink", wrong)
    row = shrunk(TINY, {})
    assert row.error == "neurons: PruningError: output at (0,) differs"
    assert "0 shrink" in shrunk_table([row])


def test_shrinking_has_a_table_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heavy = Entry("shapes alone", "large", "float32", tiny, weightless=True)
    monkeypatch.setattr(command, "entries", lambda *_: [*KNOWN, heavy])
    flags = ["models", "--shrink", "--out", str(tmp_path)]
    assert main([*flags, "--only", "plain/*"]) == 0
    rows = from_json((tmp_path / "shrink.json").read_text(), Shrunk)
    assert [(row.model, bool(row.error)) for row in rows] == [("tiny", False), ("broken", True)]
    assert (tmp_path / "shrink.md").read_text() in capsys.readouterr().out
    assert not (tmp_path / "models.json").exists()
    monkeypatch.setattr(command, "shrunk", None)  # nothing is done again
    assert main([*flags, "--only", "plain/*"]) == 0
    assert main([*flags, "--only", "shapes alone/*"]) == 2
