"""What the networks of a run are judged by: errors of images, bits per character of texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.data import SOURCES
from experiments.store import Evaluation, Result


class Measure(NamedTuple):
    """How networks are judged; less is better.

    Attributes:
      name, suffix: of a table's title, before and after what it says of the networks.
      noun: its name in a sentence.
      sign: what follows a number in a sentence.
      step: what differences are counted in.
      does, do: what one network does, and what several do, to have so much of it.
      unit: what a value is multiplied by to be told.
      value: from the fraction of wrong answers and the mean cross entropy in nats; None where it
        was not measured.
    """

    name: str
    noun: str
    suffix: str
    sign: str
    step: str
    does: str
    do: str
    unit: float
    value: Callable[[float, float | None], float | None]

    def title(self, of: str) -> str:
        """Return the title of a table of it."""
        return f"{self.name} {of}{self.suffix}"

    def test(self, moment: Evaluation) -> float | None:
        """Return it on the test set."""
        return self.value(moment.test_error, moment.test_loss)

    def gap(self, moment: Evaluation) -> float | None:
        """Return how much more it is on the test set than on the training set."""
        test, train = self.test(moment), self.value(moment.train_error, moment.train_loss)
        return None if test is None or train is None else test - train


ERROR = Measure(
    "Test error (%)", "test error", "", "%", "points", "errs", "err", 100.0,
    lambda error, loss: error,
)  # fmt: skip
BITS = Measure(
    "Test cross entropy", "test cross entropy", ", bits", " bits", "bits", "takes", "take", 1.0,
    lambda error, loss: None if loss is None else loss / math.log(2),
)  # fmt: skip


def measure_of(results: Sequence[Result]) -> Measure:
    """Return what results of one data set are judged by.

    Of a text most characters are guessed by any network, and bits tell two apart where errors do
    not. Results of it from before cross entropies were stored are judged by their errors.
    """
    source = SOURCES.get(results[0].trial.dataset)
    is_text = source is not None and source.is_text
    moments = (moment for result in results for moment in result.evaluations)
    return BITS if is_text and all(each.test_loss is not None for each in moments) else ERROR
