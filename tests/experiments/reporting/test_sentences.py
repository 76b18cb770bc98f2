from collections.abc import Sequence
from dataclasses import replace

import pytest

from experiments.reporting.sentences import claim, comparisons, sentence, verdicts
from experiments.store import Evaluation, Result
from experiments.trial import Trial


def result(method: str, tau: int, seed: int, after: float) -> Result:
    trial = Trial("fcn", "relu", "digits", method, tau, seed, 100, 50, 60, 1e-3)
    errors = (-1, 0.02), (0, 0.5), (25, 0.001), (50, after)
    moments = tuple(Evaluation(step, 0.0, None, error, None) for step, error in errors)
    return Result(trial, 0.5**tau, None, (), moments, 1.0)


def results(tau: int, **errors: Sequence[float]) -> list[Result]:
    return [
        result(method.replace("_", "-"), tau, seed, error)
        for method, those in errors.items()
        for seed, error in enumerate(those)
    ]


def test_every_level_says_how_much_and_whether_beyond_the_spread() -> None:
    clear = results(4, MP=(0.10, 0.12), LAP=(0.04, 0.06), LAP_forward=(0.10, 0.14))
    worse = results(5, MP=(0.10, 0.12), LAP=(0.20, 0.24), RP=(0.9, 0.9))
    assert verdicts([*worse, *clear]) == [
        "At 6.25% of the weights MP errs 11.00±1.41%; beyond the spread: LAP 6.00 points less "
        "(5.00±1.41%, -54.55%); within the spread: LAP-forward 1.00 points more "
        "(12.00±2.83%, +9.09%).",
        "At 3.12% of the weights MP errs 11.00±1.41%; beyond the spread: LAP 11.00 points more "
        "(22.00±2.83%, +100.00%).",
    ]


def test_the_claim_is_judged_at_every_level() -> None:
    several = [
        *results(4, MP=(0.10, 0.12), LAP=(0.20, 0.24)),
        *results(5, MP=(0.10, 0.12), LAP=(0.10, 0.11)),
        *results(6, MP=(0.50, 0.50), LAP=(0.10, 0.10)),
        *results(7, MP=(0.50,), LAP=(0.10,)),
    ]
    assert claim(several) == (
        "“LAP beats MP” holds, beyond the spread, at 1.56% (10.00±0.00% against 50.00±0.00%); "
        "it fails, beyond the spread, at 6.25% (22.00±2.83% against 11.00±1.41%); "
        "it is open, within the spread, at 3.12% (10.50±0.71% against 11.00±1.41%); "
        "it cannot be judged, of one seed, at 0.78% (10.00% against 50.00%) of the weights."
    )
    assert claim(results(4, MP=(0.1,))) == ""


def test_the_claim_is_judged_among_effective_weights_too() -> None:
    plain = results(6, MP=(0.50, 0.50), LAP=(0.10, 0.10))
    both = [
        *plain,
        *(replace(each, trial=replace(each.trial, effective=True))
          for each in results(6, MP=(0.08, 0.08), LAP=(0.09, 0.09))),
    ]  # fmt: skip
    own = "“LAP beats MP” holds, beyond the spread, at 1.56% (10.00±0.00% against 50.00±0.00%)"
    assert claim(plain) == f"{own} of the weights."
    assert claim(both) == (
        f"{own} of the weights. “LAP effective beats MP effective” fails, beyond the spread, at "
        "1.56% (9.00±0.00% against 8.00±0.00%) of the weights."
    )


def test_one_seed_has_no_spread() -> None:
    (text,) = verdicts(results(4, MP=(0.1, 0.2), LAP=(0.05,)))
    assert "without a spread, of one seed: LAP 10.00 points less (5.00%, -66.67%)" in text


def test_as_much_and_nothing_to_divide_by() -> None:
    (equal,) = comparisons(results(4, MP=(0.1, 0.1), LAP=(0.1, 0.1)))
    assert str(equal) == "LAP as much (10.00±0.00%, +0.00%)"
    assert not equal.clear
    (zero,) = comparisons(results(4, MP=(0.0,), LAP=(0.1,)))
    assert str(zero) == "LAP 10.00 points more (10.00%)"


@pytest.mark.parametrize(
    ("lap", "expected"),
    [
        ([0.02, 0.03], "LAP errs less than MP at 2 of 2 levels"),
        ([0.5, 0.6], "LAP errs less than MP at 0 of 2 levels, more at 2, and"),
        ([0.1, 0.2], "LAP errs less than MP at 0 of 2 levels, and"),
    ],
)
def test_the_sentence_says_who_wins_also_when_lap_does_not(lap: list[float], expected: str) -> None:
    results = [result("MP", t, 0, e) for t, e in zip((4, 5), (0.1, 0.2), strict=True)]
    results += [result("LAP", t, 0, e) for t, e in zip((4, 5), lap, strict=True)]
    assert expected in sentence(results)


def test_the_sentence_counts_only_clear_gaps_as_clear() -> None:
    results = [result("MP", 4, s, e) for s, e in enumerate((0.10, 0.30))]
    results += [result("LAP", 4, s, e) for s, e in enumerate((0.05, 0.25))]
    results += [result("MP", 5, s, e) for s, e in enumerate((0.50, 0.51))]
    results += [result("LAP", 5, s, e) for s, e in enumerate((0.10, 0.11))]
    text = sentence(results)
    assert "at 2 of 2 levels (1 by more than both standard deviations together)" in text
    assert "differ most at 3.12% of the weights: 10.50±0.71% against 50.50±0.71%" in text


def test_of_many_methods_the_sentence_tells_how_many_and_the_best() -> None:
    text = sentence([
        *results(4, MP=(0.10, 0.12), LAP=(0.02, 0.04), LFP=(0.10, 0.11), LBP=(0.2, 0.4),
                 LAP_forward=(0.09, 0.09)),
        *results(5, MP=(0.50,), LAP=(0.10,), LFP=(0.05,)),
    ])  # fmt: skip
    assert text == (
        "After retraining, at 6.25% of the weights 3 of 4 ways to prune err less than MP's "
        "11.00±1.41%, 2 of them by more than both standard deviations together, the least LAP: "
        "3.00±1.41%; at 3.12% of the weights 2 of 2 ways to prune err less than MP's 50.00%, the "
        "least LFP: 5.00%."
    )
    worst = [*results(4, MP=(0.01,), LAP=(0.2,), LFP=(0.2,), LBP=(0.4,), LAP_forward=(0.09,))]
    assert sentence(worst) == (
        "After retraining, at 6.25% of the weights 0 of 4 ways to prune err less than MP's 1.00%."
    )


def test_the_sentence_of_one_method_tells_its_course() -> None:
    text = sentence([result("LAP", t, 0, e) for t, e in ((4, 0.02), (9, 0.5))])
    assert text == (
        "With LAP the test error after retraining goes from 2.00% at 6.25% of the weights to "
        "50.00% at 0.20%."
    )
