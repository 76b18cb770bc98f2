import math
from dataclasses import replace

import numpy as np
import pytest

from experiments.reporting.figures import pictures
from experiments.reporting.measure import BITS, ERROR, Measure, measure_of
from experiments.reporting.sentences import claim, sentence, verdicts
from experiments.reporting.tables import heading, sheets
from experiments.store import Evaluation, Result
from experiments.trial import Trial

BIT = math.log(2)


def result(
    method: str, seed: int, bits: float, dataset: str = "python_reference", steps: int = 50
) -> Result:
    """A network of 2 bits, pruned to 5, retrained to ``bits``; of a training set, one bit less."""
    trial = Trial("charlm", "relu", dataset, method, 0, seed, 100, steps, 60, 1e-3, sparsity=0.5)
    found = [(-1, 2.0), (0, 5.0), (steps, bits)] if steps else [(-1, 2.0), (0, bits)]
    moments = tuple(
        Evaluation(step, 0.3, (each - 1) * BIT, 0.4, each * BIT) for step, each in found
    )
    return Result(trial, 0.5, None, (), moments, 1.0)


SWEEP = [
    result(method, seed, bits + 0.01 * seed)
    for seed in (0, 1)
    for method, bits in (("MP", 3.0), ("Wanda", 2.5), ("LAP", 3.001))
]


def test_a_text_is_judged_by_its_bits_and_images_by_their_errors() -> None:
    assert measure_of(SWEEP) is BITS
    assert measure_of([result("MP", 0, 3.0, "digits")]) is ERROR
    assert measure_of([result("MP", 0, 3.0, "of_somebody_else")]) is ERROR


def test_a_text_without_cross_entropies_is_judged_by_its_errors() -> None:
    old = [each._replace(train_loss=None, test_loss=None) for each in SWEEP[0].evaluations]
    assert measure_of([*SWEEP, replace(SWEEP[0], evaluations=tuple(old))]) is ERROR


@pytest.mark.parametrize(("measure", "test", "gap"), [(ERROR, 40.0, 10.0), (BITS, 2.0, 1.0)])
def test_values_are_told_in_their_unit(measure: Measure, test: float, gap: float) -> None:
    moment = SWEEP[0].trained
    assert measure.unit * (measure.test(moment) or 0) == pytest.approx(test)
    assert measure.unit * (measure.gap(moment) or 0) == pytest.approx(gap)


def test_what_was_not_measured_is_blank() -> None:
    unmeasured = SWEEP[0].trained._replace(train_loss=None)
    assert BITS.test(unmeasured) is not None
    assert BITS.gap(unmeasured) is None
    assert BITS.test(unmeasured._replace(test_loss=None)) is None


def test_tables_of_a_text_begin_with_its_bits() -> None:
    found = {sheet.title: sheet for sheet in sheets(SWEEP)}
    first, *others = found
    assert first == "Test cross entropy after retraining, bits"
    assert dict((row.name, row.cells) for row in found[first].rows) == {
        "MP (baseline)": ("3.005±0.007",),
        "Wanda": ("2.505±0.007 (-16.64%)",),
        "LAP": ("3.006±0.007 (+0.03%)",),
    }
    less = found["Test cross entropy less MP's on the same network, bits"]
    assert {row.name: row.cells for row in less.rows}["Wanda"] == ("-0.500±0.000",)
    gap = found["Test cross entropy less that of training, bits, after retraining"]
    assert {cells for row in gap.rows for cells in row.cells} == {"1.000±0.000"}
    assert "Test error (%) after retraining" in others
    assert "Unpruned: 2.000±0.000 bits (40.00±0.00%)." in heading(SWEEP)


def test_sentences_of_a_text_tell_bits() -> None:
    (told,) = verdicts(SWEEP)
    assert told == (
        "At 50.00% of the weights MP takes 3.005±0.007 bits; beyond the spread: Wanda 0.500 bits "
        "less (2.505±0.007 bits, -16.64%); within the spread: LAP 0.001 bits more (3.006±0.007 "
        "bits, +0.03%)."
    )
    assert "(3.006±0.007 bits against 3.005±0.007 bits)" in claim(SWEEP)
    wanda = [each for each in SWEEP if each.trial.method != "LAP"]
    assert sentence(wanda).startswith("After retraining, Wanda takes less than MP at 1 of 1 levels")
    assert sentence([each for each in SWEEP if each.trial.method == "MP"]) == (
        "With MP the test cross entropy after retraining is 3.005±0.007 bits at 50.00% of the "
        "weights."
    )


def test_pictures_of_a_text_have_bits_on_their_axes() -> None:
    found = pictures(SWEEP)
    after, before = found["accuracy"].axes
    assert {after.get_ylabel(), before.get_ylabel()} == {"test cross entropy (bits)"}
    heights = [np.asarray(line.get_ydata()) for line in after.get_lines()]
    assert any(np.allclose(each, 2.505) for each in heights)
    assert np.allclose(np.asarray(before.get_lines()[-1].get_ydata()), 2.0)
    assert "(bits)" in found["gap"].axes[1].get_ylabel()


def test_what_was_not_retrained_is_told_once_and_as_that() -> None:
    sweep = [result(method, 0, 4.0, steps=0) for method in ("MP", "LAP", "unpruned")]
    text = heading(sweep)
    assert "without retraining" in text
    assert "as many steps" not in text
    assert [each.title for each in sheets(sweep)] == [
        "Test cross entropy without retraining, bits",
        "Test cross entropy less MP's on the same network, bits",
        "Test error (%) without retraining",
        "Training error without retraining",
        "Test cross entropy less that of training, bits, without retraining",
    ]
    assert [axes.get_title() for axes in pictures(sweep)["accuracy"].axes] == ["Without retraining"]
    assert sentence(sweep).startswith("Without retraining, LAP")
