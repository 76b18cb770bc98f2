"""Text for people, JSON for programs, of the same findings."""

import json
from pathlib import Path

from lap_jax.cli.findings import Findings, Table, aligned, as_json, as_text, numeric, shown

ROWS = [("Conv_0", (3, 3, 1, 8), 1234, 0.5, None), ("b", (2,), 7, 0.25, 3)]
TABLE = Table("layers", ("layer", "shape", "weights", "sparsity", "effective"), ROWS)
FINDINGS = Findings("prune", "x", {"dead neurons": 3, "sparsity": 0.5}, (TABLE,), ("mind this",),
                    written=(Path("out"),))  # fmt: skip


def test_text_stands_in_columns() -> None:
    assert as_text(FINDINGS).splitlines() == [
        "layer   shape    weights  sparsity  effective",
        "Conv_0  3x3x1x8    1,234    50.00%          -",
        "b       2              7    25.00%          3",
        "",
        "dead neurons  3",
        "sparsity      50.00%",
        "",
        "warning: mind this",
    ]


def test_json_holds_numbers_as_they_are() -> None:
    told = json.loads(as_json(FINDINGS))
    assert told["facts"] == {"dead_neurons": 3, "sparsity": 0.5}
    assert told["layers"][0] == {"layer": "Conv_0", "shape": [3, 3, 1, 8], "weights": 1234,
                                 "sparsity": 0.5, "effective": None}  # fmt: skip
    assert (told["warnings"], told["written"]) == (["mind this"], ["out"])
    assert "differs" not in told


def test_empty_tables_are_left_out() -> None:
    assert as_text(Findings("diff", "x", {}, (Table("t", ("a",), []),))) == ""
    assert aligned([], ()) == ""


def test_values_and_columns() -> None:
    assert [shown(each) for each in ("a", 1000, 0.123456, (), (2, 3), None)] == [
        "a", "1,000", "12.35%", "1", "2x3", "-",
    ]  # fmt: skip
    assert numeric(TABLE) == (2, 3, 4)
