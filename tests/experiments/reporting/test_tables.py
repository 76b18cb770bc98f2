import statistics
from dataclasses import replace
from typing import Any

import pytest

from experiments.reporting.tables import schedules, sheets, table
from experiments.store import Evaluation, LayerCount, Result, by_run
from experiments.trial import Trial


def result(
    method: str,
    tau: int,
    seed: int,
    after: float,
    dataset: str = "digits",
    before: float = 0.5,
    unpruned: float = 0.02,
) -> Result:
    trial = Trial("fcn", "relu", dataset, method, tau, seed, 100, 50, 60, 1e-3)
    moments = (
        Evaluation(-1, 0.0, 0.1, unpruned, 0.2),
        Evaluation(0, 0.4, 1.0, before, 1.1),
        Evaluation(50, 0.01, 0.1, after, 0.3),
    )
    return Result(trial, 0.5**tau, 0.25, (LayerCount("Dense_0", 100, 6, 10, 1),), moments, 1.0)


def cells(text: str, method: str) -> list[str]:
    row = next(line for line in text.splitlines() if line.startswith(f"| {method} "))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_cells_are_mean_and_sample_deviation_with_the_gain_over_mp() -> None:
    mp, lap = [0.04, 0.05, 0.09], [0.02, 0.03, 0.04]
    results = [result("LAP", 4, s, e) for s, e in enumerate(lap)]
    results += [result("MP", 4, s, e) for s, e in enumerate(mp)]
    text = table(results)
    assert cells(text, "MP (baseline)") == [f"6.00±{100 * statistics.stdev(mp):.2f}"]
    assert cells(text, "LAP") == [f"3.00±{100 * statistics.stdev(lap):.2f} (-50.00%)"]
    assert "3 seeds" in text
    assert "100 training and 50 retraining steps" in text


def test_rows_and_columns_come_in_the_order_of_the_paper() -> None:
    results = [result(m, t, 0, 0.1) for t in (7, 4) for m in ("LAP-forward-seq", "LAP", "RP", "MP")]
    after, before = table(results).split("Before retraining")
    rows = [line.split("|")[1].strip() for line in after.splitlines() if line.startswith("| ")]
    assert rows[:3] == ["", "density of layers", "multiply-adds"]
    assert rows[3:] == ["MP (baseline)", "RP", "LAP", "LAP-forward-seq"]
    assert "| | 6.25% | 0.78% |" in after
    assert cells(before, "LAP") == ["50.00 (+0.00%)"] * 2


def test_one_seed_has_no_deviation_and_a_missing_cell_says_so() -> None:
    text = table([result("MP", 4, 0, 0.1), result("LAP", 4, 0, 0.05), result("MP", 5, 0, 0.2)])
    assert cells(text, "LAP") == ["5.00 (-50.00%)", "-"]


def test_the_papers_figures_stand_below_ours_only_where_the_data_is_the_same() -> None:
    mine = [result(m, t, s, 0.1, "mnist") for m in ("MP", "LAP") for t in (4, 5) for s in (0, 1)]
    text = table(mine)
    published = [line for line in text.splitlines() if line.startswith("| *paper*")]
    assert len(published) == 2
    assert "*1.75±0.11*" in published[0]
    assert "*1.67±0.11*" in published[1]
    assert "*paper*" not in table([result("MP", 4, 0, 0.1, "digits")])


def test_a_cell_of_fewer_seeds_says_so() -> None:
    results = [result("MP", 4, seed, 0.1) for seed in (0, 1)] + [result("LAP", 4, 0, 0.05)]
    assert cells(table(results), "LAP") == ["5.00 (-50.00%) [1 seed]"]


def test_runs_of_different_settings_are_never_averaged() -> None:
    short = result("MP", 4, 0, 0.1)
    long = replace(short, trial=replace(short.trial, train_steps=7))
    assert by_run([short, long, short]) == [[short, short], [long]]
    with pytest.raises(ValueError, match="several runs"):
        table([short, long])


def test_a_level_tells_densities_and_multiply_adds() -> None:
    layers = tuple(LayerCount(f"{i}", 200, kept, 10, 0) for i, kept in enumerate((5, 40, 10)))
    rows = [replace(result(m, 4, 0, 0.1), layers=layers, multiply_adds=share)
            for m, share in (("MP", 0.02), ("LAP", 0.03))]  # fmt: skip
    rows.append(
        replace(rows[0], trial=replace(rows[0].trial, tau=5), layers=(), multiply_adds=None)
    )
    densities, costs = sheets(rows)[0].levels
    assert densities == ("density of layers", ("2.5-20%", "-"), False)
    assert costs == ("multiply-adds", ("2.50%", "-"), False)
    old = [replace(each, layers=(), multiply_adds=None) for each in rows]
    assert sheets(old)[0].levels == ()


def test_the_share_of_effective_weights_is_blank_where_it_was_not_counted() -> None:
    layers = (LayerCount("Dense_0", 100, 8, 10, 1, 2),)
    counted = [replace(result("MP", 4, seed, 0.1), layers=layers) for seed in (0, 1)]
    (sheet,) = [each for each in sheets([*counted, result("LAP", 4, 0, 0.1)])
                if "(effective)" in each.title]  # fmt: skip
    assert [(row.name, row.cells) for row in sheet.rows] == [
        ("MP", ("25.00±0.00",)), ("LAP", ("-",))
    ]  # fmt: skip


def test_schedules_are_compared_within_a_network_only() -> None:
    def run(schedule: str, activation: str, error: float, cycles: int) -> list[Result]:
        first = result("MP", 4, 0, error)
        trial = replace(first.trial, schedule=schedule, activation=activation, cycles=cycles)
        other = replace(result("LAP", 4, 0, error / 2), trial=replace(trial, method="LAP"))
        return [replace(first, trial=trial), other]

    one_shot = [*run("one-shot", "relu", 0.2, 1), *run("one-shot", "tanh", 0.6, 1)]
    assert schedules(one_shot) == []
    (relu,) = schedules([*one_shot, *run("gradual", "relu", 0.1, 3)])
    assert relu.title.endswith("by schedule, fcn (relu) on digits")
    assert [(row.name, row.cells) for row in relu.rows] == [
        ("one-shot, MP", ("20.00",)),
        ("one-shot, LAP", ("10.00 (-50.00%)",)),
        ("gradual in 3 cycles, MP", ("10.00",)),
        ("gradual in 3 cycles, LAP", ("5.00 (-50.00%)",)),
    ]


@pytest.mark.parametrize(
    "other",
    [{"divisor": 4}, {"widths": "9,9,9,9"}, {"side": 8}, {"train_on": 100}, {"schedule": "rewind"}],
    ids=str,
)
def test_another_network_than_the_papers_does_not_stand_beside_its_figures(
    other: dict[str, Any],
) -> None:
    own = result("MP", 7, 0, 0.1, dataset="mnist")
    assert "paper" in table([own])
    assert "paper" not in table([replace(own, trial=replace(own.trial, **other))])


def test_the_head_tells_settings_that_are_not_the_usual_ones() -> None:
    own = result("MP", 4, 0, 0.1)
    assert "learning rate 0.001." in table([own])
    other = replace(own.trial, decay="cosine", divisor=8, same_batches=True)
    assert (
        "learning rate 0.001, cosine decay to zero in each, widths divided by 8, "
        "the same batches in every retraining of a network."
    ) in table([replace(own, trial=other)])


def test_cross_entropy_is_told_in_bits_before_and_after_retraining() -> None:
    text = table([result("MP", 4, 0, 0.1), result("LAP", 4, 1, 0.05)])
    before = text.split("Test cross entropy before retraining, bits:")[1]
    after = text.split("Test cross entropy after retraining, bits:")[1]
    assert cells(before, "LAP") == ["1.587"]  # 1.1 nats
    assert cells(after, "LAP") == ["0.433"]  # 0.3 nats
    assert "Unpruned: 2.00±0.00% (0.289±0.000 bits)." in text  # 0.2 nats


def test_results_without_a_cross_entropy_have_no_table_of_it() -> None:
    old = result("MP", 4, 0, 0.1)
    moments = tuple(each._replace(train_loss=None, test_loss=None) for each in old.evaluations)
    text = table([replace(old, evaluations=moments)])
    assert "Unpruned: 2.00%." in text
    assert "bits" not in text


def test_layers_that_are_left_whole_have_a_density_of_100_percent() -> None:
    layers = (LayerCount("head", 100, 100, 10, 0), LayerCount("Dense_0", 1000, 12, 10, 0))
    found = table([replace(result("MP", 4, 0, 0.1), layers=layers)])
    assert cells(found, "density of layers") == ["1.2-100%"]


def test_of_the_control_alone_the_heading_is_told() -> None:
    text = table([result("unpruned", 0, 0, 0.1)])
    assert "Unpruned: 2.00% (0.289 bits), and 10.00% (0.433 bits)" in text
    assert "|" not in text
