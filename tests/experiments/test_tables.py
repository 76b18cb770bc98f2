import statistics
from dataclasses import replace

import pytest

from experiments.results import Result, Trial, by_run
from experiments.tables import sentence, table


def result(method, tau, seed, after, dataset="digits", before=0.5, unpruned=0.02):
    trial = Trial("fcn", "relu", dataset, method, tau, seed, 100, 50, 60, 1e-3)
    return Result(trial, 0.5**tau, unpruned, before, after, 0.0, 0.4, 0.1, 1.0)


def cells(text, method):
    row = next(line for line in text.splitlines() if line.startswith(f"| {method} "))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_cells_are_mean_and_sample_deviation_with_the_gain_over_mp():
    mp, lap = [0.04, 0.05, 0.09], [0.02, 0.03, 0.04]
    results = [result("LAP", 4, s, e) for s, e in enumerate(lap)]
    results += [result("MP", 4, s, e) for s, e in enumerate(mp)]
    text = table(results)
    assert cells(text, "MP (baseline)") == [f"6.00±{100 * statistics.stdev(mp):.2f}"]
    assert cells(text, "LAP") == [f"3.00±{100 * statistics.stdev(lap):.2f} (-50.00%)"]
    assert "3 seeds" in text
    assert "100 training and 50 retraining steps" in text


def test_rows_and_columns_come_in_the_order_of_the_paper():
    results = [result(m, t, 0, 0.1) for t in (7, 4) for m in ("LAP-forward-seq", "LAP", "RP", "MP")]
    after, before = table(results).split("Before retraining")
    rows = [line.split("|")[1].strip() for line in after.splitlines() if line.startswith("| ")]
    assert rows == ["", "MP (baseline)", "RP", "LAP", "LAP-forward-seq"]
    assert "| | 6.25% | 0.78% |" in after
    assert cells(before, "LAP") == ["50.00 (+0.00%)"] * 2


def test_one_seed_has_no_deviation_and_a_missing_cell_says_so():
    text = table([result("MP", 4, 0, 0.1), result("LAP", 4, 0, 0.05), result("MP", 5, 0, 0.2)])
    assert cells(text, "LAP") == ["5.00 (-50.00%)", "-"]


def test_the_papers_figures_stand_below_ours_only_where_the_data_is_the_same():
    mine = [result(m, t, s, 0.1, "mnist") for m in ("MP", "LAP") for t in (4, 5) for s in (0, 1)]
    text = table(mine)
    published = [line for line in text.splitlines() if line.startswith("| *paper*")]
    assert len(published) == 2
    assert "*1.75±0.11*" in published[0]
    assert "*1.67±0.11*" in published[1]
    assert "*paper*" not in table([result("MP", 4, 0, 0.1, "digits")])


@pytest.mark.parametrize(
    ("lap", "expected"),
    [
        ([0.02, 0.03], "LAP errs less than MP at 2 of 2 levels"),
        ([0.5, 0.6], "LAP errs less than MP at 0 of 2 levels"),
        ([0.1, 0.2], "LAP errs less than MP at 0 of 2 levels"),
    ],
)
def test_the_sentence_says_who_wins_also_when_lap_does_not(lap, expected):
    results = [result("MP", t, 0, e) for t, e in zip((4, 5), (0.1, 0.2), strict=True)]
    results += [result("LAP", t, 0, e) for t, e in zip((4, 5), lap, strict=True)]
    assert expected in sentence(results)


def test_the_sentence_counts_only_clear_gaps_as_clear():
    results = [result("MP", 4, s, e) for s, e in enumerate((0.10, 0.30))]
    results += [result("LAP", 4, s, e) for s, e in enumerate((0.05, 0.25))]
    results += [result("MP", 5, s, e) for s, e in enumerate((0.50, 0.51))]
    results += [result("LAP", 5, s, e) for s, e in enumerate((0.10, 0.11))]
    text = sentence(results)
    assert "at 2 of 2 levels (1 by more than both standard deviations together)" in text
    assert "differ most at 3.12% of the weights: 10.50±0.71% against 50.50±0.71%" in text


def test_the_sentence_of_one_method_tells_its_course():
    text = sentence([result("LAP", t, 0, e) for t, e in ((4, 0.02), (9, 0.5))])
    assert text == (
        "With LAP the test error after retraining goes from 2.00% at 6.25% of the weights to "
        "50.00% at 0.20%."
    )


def test_a_cell_of_fewer_seeds_says_so():
    results = [result("MP", 4, seed, 0.1) for seed in (0, 1)] + [result("LAP", 4, 0, 0.05)]
    assert cells(table(results), "LAP") == ["5.00 (-50.00%) [1 seed]"]


def test_runs_of_different_settings_are_never_averaged():
    short = result("MP", 4, 0, 0.1)
    long = replace(short, trial=replace(short.trial, train_steps=7), after=0.9)
    assert by_run([short, long, short]) == [[short, short], [long]]
    with pytest.raises(ValueError, match="several runs"):
        table([short, long])
