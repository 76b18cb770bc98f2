"""What results say, in sentences: where LAP and its variants beat MP, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from experiments.reporting.measure import Measure, measure_of
from experiments.reporting.tables import Cell, after, cells_of, pruned, when
from experiments.store import Result
from experiments.trial import SHUFFLED

EFFECTIVE = ("LAP effective", "MP effective")

MOST = 3
"""Ways to prune that a sentence can tell of one by one."""


class Comparison(NamedTuple):
    """A way of pruning and MP at one level, after retraining."""

    measure: Measure
    level: float
    kept: float
    way: str
    cell: Cell
    base: Cell

    @property
    def gap(self) -> float:
        """Percentage points, of texts bits, that the method has more than MP."""
        return self.cell.mean - self.base.mean

    @property
    def spread(self) -> float | None:
        """Both standard deviations together; None where one seed has none."""
        if self.cell.std is None or self.base.std is None:
            return None
        return self.cell.std + self.base.std

    @property
    def clear(self) -> bool:
        """Whether the gap exceeds the spread."""
        return self.spread is not None and abs(self.gap) > self.spread

    def __str__(self) -> str:
        relative = f", {self.gap / self.base.mean:+.2%}" if self.base.mean else ""
        much = (
            f"{abs(self.gap):.{self.cell.decimals}f} {self.measure.step} "
            f"{'less' if self.gap < 0 else 'more'}"
        )
        return f"{self.way} {much if self.gap else 'as much'} ({self.own}{relative})"

    @property
    def own(self) -> str:
        """What the method has, in its unit."""
        return f"{self.cell}{self.measure.sign}"

    @property
    def other(self) -> str:
        """What MP has."""
        return f"{self.base}{self.measure.sign}"


def comparisons(results: Sequence[Result], base: str = "MP") -> list[Comparison]:
    """Compare with MP, level by level, each way that is neither a baseline nor shuffled.

    Args:
      results: of one run.
      base: another way in the place of MP.
    """
    if not pruned(results):
        return []
    measure = measure_of(results)
    cells, kept, ways = cells_of(pruned(results), after(measure), measure.unit)
    rivals = [name for name in ways if name not in (base, "RP") and not name.endswith(SHUFFLED)]
    return [
        Comparison(measure, level, kept[level], way, cells[way, level], cells[base, level])
        for level in sorted(kept)
        for way in rivals
        if (way, level) in cells and (base, level) in cells
    ]


def verdicts(results: Sequence[Result]) -> list[str]:
    """Return a sentence per level: which methods err less than MP or more, and by how much.

    Differences beyond the spread, which is both standard deviations together, come first.
    """
    sentences = []
    for those in _by_level(comparisons(results)):
        first = those[0]
        parts = [f"At {first.kept:.2%} of the weights MP {first.measure.does} {first.other}"]
        for title, group in (
            ("beyond the spread", [each for each in those if each.clear]),
            ("within the spread", [e for e in those if not e.clear and e.spread is not None]),
            ("without a spread, of one seed", [each for each in those if each.spread is None]),
        ):
            if group:
                parts.append(f"{title}: {', '.join(map(str, group))}")
        sentences.append("; ".join(parts) + ".")
    return sentences


def claim(results: Sequence[Result]) -> str:
    """Return whether "LAP beats MP at high sparsity" holds: each level, sorted by the answer.

    The same where both keep effective weights. Empty where LAP and MP share no level.
    """
    return " ".join(filter(None, (_claim(results, "LAP", "MP"), _claim(results, *EFFECTIVE))))


def _claim(results: Sequence[Result], way: str, base: str) -> str:
    own = [each for each in comparisons(results, base) if each.way == way]
    if not own:
        return ""
    parts = []
    for title, group in (
        ("holds, beyond the spread, at", [e for e in own if e.clear and e.gap < 0]),
        ("fails, beyond the spread, at", [e for e in own if e.clear and e.gap > 0]),
        ("is open, within the spread, at",
         [e for e in own if not e.clear and e.spread is not None]),
        ("cannot be judged, of one seed, at", [e for e in own if e.spread is None]),
    ):  # fmt: skip
        if group:
            told = (f"{e.kept:.2%} ({e.own} against {e.other})" for e in group)
            parts.append(f"{title} {', '.join(told)}")
    return f"“{way} beats {base}” {'; it '.join(parts)} of the weights."


def sentence(results: Sequence[Result]) -> str:
    """Return one sentence: where the other methods err less than MP after retraining, and how much.

    Of many methods: how many do at each level, and the best. Where MP or a rival is missing, it
    says how one method's error grows with the sparsity.
    """
    own = pruned(results)
    if not own:
        return "Nothing was pruned."
    found, start = comparisons(own), when(own[0].trial).capitalize()
    rivals: dict[str, list[Comparison]] = {}
    for each in found:
        rivals.setdefault(each.way, []).append(each)
    if not rivals:
        measure = measure_of(own)
        cells, kept, (way, *_) = cells_of(own, after(measure), measure.unit)
        present = [level for level in sorted(kept) if (way, level) in cells]
        first, *_, last = (
            f"{cells[way, level]}{measure.sign} at {kept[level]:.2%}"
            for level in (present[0], present[-1])
        )
        course = f"is {first} of the weights"
        if len(present) > 1:
            course = f"goes from {first} of the weights to {last}"
        return f"With {way} the {measure.noun} {start.lower()} {course}."
    if len(rivals) <= MOST:
        return f"{start}, {'; '.join(map(_course, rivals.values()))}."
    return f"{start}, {'; '.join(map(_count, _by_level(found)))}."


def _by_level(found: Sequence[Comparison]) -> list[list[Comparison]]:
    """Return comparisons level by level, in the order in which levels come."""
    levels: dict[float, list[Comparison]] = {}
    for each in found:
        levels.setdefault(each.level, []).append(each)
    return list(levels.values())


def _count(ways: Sequence[Comparison]) -> str:
    """Say how many ways have less than MP at a level, and which the least."""
    less = [each for each in ways if each.gap < 0]
    told = (
        f"at {ways[0].kept:.2%} of the weights {len(less)} of {len(ways)} ways to prune "
        f"{ways[0].measure.do} less than MP's {ways[0].other}"
    )
    if not less:
        return told
    if any(each.spread is not None for each in less):
        clear = sum(each.clear for each in less)
        told += f", {clear} of them by more than both standard deviations together"
    best = min(less, key=lambda each: each.cell.mean)
    return f"{told}, the least {best.way}: {best.own}"


def _course(levels: Sequence[Comparison]) -> str:
    """Compare one method with MP over the levels that both have."""
    less = [each for each in levels if each.gap < 0]
    more = [each for each in levels if each.gap > 0]
    widest = max(levels, key=lambda each: abs(each.gap))

    def beyond(those: Sequence[Comparison]) -> str:
        clear = sum(each.clear for each in those)
        told = f" ({clear} by more than both standard deviations together)"
        return "" if widest.spread is None else told

    loses = f", more at {len(more)}{beyond(more)}" if more else ""
    counts = f"at {len(less)} of {len(levels)} levels{beyond(less)}{loses}"
    return (
        f"{widest.way} {widest.measure.does} less than MP {counts}, and they differ most at "
        f"{widest.kept:.2%} of the weights: {widest.own} against {widest.other}"
    )
