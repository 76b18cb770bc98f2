"""How time grows with the number of weights: a table of exponents and a log-log picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.masks import Timing, exponent
from experiments.files import write_atomically

COLOURS = {
    "floor": "black",
    "MP": "tab:red",
    "LAP": "tab:green",
    "jnp.sort": "tab:blue",
    "numpy.partition": "tab:orange",
    "torch l1_unstructured": "tab:purple",
    "JaxPruner": "tab:brown",
}


def growth_table(timings: Sequence[Timing]) -> str:
    """Return Markdown: milliseconds by size, and the exponent of the growth."""
    sizes = sorted({timing.size for timing in timings})
    lines = [
        "| three matrices, median ms | "
        + " | ".join(f"{s / 1e6:.0f}M" for s in sizes)
        + " | exponent |",
        "|---|" + "---:|" * (len(sizes) + 1),
    ]
    for name, points in _lines(timings).items():
        cells = [f"{1e3 * points[size]:.1f}" if size in points else "-" for size in sizes]
        lines.append(f"| {name} | {' | '.join(cells)} | {_exponent(points)} |")
    return "\n".join(lines)


def plot(timings: Sequence[Timing], path: Path) -> None:
    """Draw time against size on logarithmic axes, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for (name, points), marker in zip(_lines(timings).items(), "sodv^<>pP*" * 3, strict=False):
        ours = name in ("MP", "LAP")
        axes.plot(
            list(points), list(points.values()), marker=marker, linewidth=2.2 if ours else 1.2,
            color=COLOURS.get(name, "gray"),
            linestyle="--" if name == "floor" else "-",
            label=f"{'lap_jax ' if ours else ''}{name} ({_exponent(points)})",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("weights of three matrices")
    axes.set_ylabel("seconds from weights to masks (median)")
    axes.set_title("Time to make masks, and the exponent of its growth")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_atomically(path, content.getvalue())


def _lines(timings: Sequence[Timing]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for timing in timings:
        if math.isfinite(timing.median):
            found.setdefault(timing.name, {})[timing.size] = timing.median
    return {name: dict(sorted(points.items())) for name, points in found.items()}


def _exponent(points: dict[int, float]) -> str:
    if len(points) < 2:
        return "-"
    return f"{exponent(list(points), list(points.values())):.2f}"
