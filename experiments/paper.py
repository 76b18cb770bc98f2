"""The paper's published numbers: Tables 1 to 6."""

from __future__ import annotations

from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table of test error rates after retraining, in percent.

    Attributes:
      model, dataset: what was trained.
      unpruned: error of the unpruned network.
      taus: the level of each column; by the rule of Appendix C they give the column heads.
      kept: the column heads, percent of the weights kept.
      errors: per method one (mean, standard deviation over five trials) per column.
    """

    model: str
    dataset: str
    unpruned: float
    taus: tuple[int, ...]
    kept: tuple[float, ...]
    errors: dict[str, tuple[tuple[float, float], ...]]


def table_for(model: str, activation: str, dataset: str) -> tuple[str, Table] | None:
    """Return name and contents of the paper's table of a network, or None; all are of ReLU."""
    for name, table in TABLES.items():
        if (table.model, "relu", table.dataset) == (model, activation, dataset):
            return name, table
    return None


def _cells(row: str) -> tuple[tuple[float, float], ...]:
    pairs = (cell.split("±") for cell in row.split())
    return tuple((float(mean), float(std)) for mean, std in pairs)


TABLES = {
    "Table 1": Table(
        model="fcn",
        dataset="mnist",
        unpruned=1.98,
        taus=(4, 5, 6, 7, 8, 9, 10),
        kept=(6.36, 3.21, 1.63, 0.84, 0.43, 0.23, 0.12),
        errors={
            "MP": _cells("1.75±0.11 2.11±0.14 2.53±0.09 3.32±0.27 4.77±0.22 19.85±8.67 67.62±9.91"),
            "RP": _cells(
                "2.36±0.13 2.72±0.16 3.64±0.17 17.54±7.07 82.48±4.03 88.65±0.00 88.65±0.00"
            ),
            "LFP": _cells(
                "1.63±0.08 1.89±0.11 2.43±0.10 3.32±0.13 4.23±0.38 9.59±1.70 50.11±12.99"
            ),
            "LBP": _cells(
                "1.75±0.17 2.04±0.12 2.61±0.15 3.62±0.17 4.19±0.31 9.09±1.41 28.51±14.85"
            ),
            "LAP": _cells("1.67±0.11 1.89±0.12 2.48±0.13 3.29±0.06 3.93±0.26 6.72±0.44 16.45±5.61"),
            "LAP-forward": _cells(
                "1.60±0.08 1.93±0.15 2.51±0.11 3.56±0.19 4.47±0.20 6.58±0.33 12.00±0.73"
            ),
            "LAP-backward": _cells(
                "1.63±0.11 1.88±0.07 2.35±0.02 3.12±0.08 3.87±0.18 5.62±0.17 13.00±3.30"
            ),
            "LAP-forward-seq": _cells(
                "1.68±0.11 1.92±0.10 2.49±0.14 3.39±0.24 4.21±0.06 6.20±0.32 10.98±1.03"
            ),
            "LAP-backward-seq": _cells(
                "1.57±0.08 1.84±0.10 2.20±0.10 3.13±0.16 3.62±0.14 5.42±0.27 11.92±4.61"
            ),
        },
    ),
    "Table 2": Table(
        model="conv6",
        dataset="cifar10",
        unpruned=11.97,
        taus=(12, 13, 14, 15, 16, 17, 18),
        kept=(10.62, 8.86, 7.39, 6.18, 5.17, 4.32, 3.62),
        errors={
            "MP": _cells(
                "11.86±0.33 12.20±0.21 13.30±0.30 15.81±0.59 20.19±2.35 24.43±1.48 28.60±2.10"
            ),
            "RP": _cells(
                "26.85±1.23 29.72±1.13 32.98±1.10 35.92±1.08 39.13±1.05 41.20±1.19 43.60±0.82"
            ),
            "LFP": _cells(
                "11.81±0.35 12.18±0.23 13.27±0.44 15.04±0.43 18.50±0.80 22.86±1.66 26.65±1.33"
            ),
            "LBP": _cells(
                "12.08±0.17 12.34±0.36 13.26±0.16 14.93±0.85 18.11±1.27 22.57±0.94 26.34±1.60"
            ),
            "LAP": _cells(
                "11.76±0.24 12.16±0.27 13.05±0.14 14.39±0.44 17.10±1.26 21.24±1.16 24.52±1.11"
            ),
            "LAP-forward": _cells(
                "11.82±0.16 12.35±0.34 13.09±0.36 14.42±0.45 17.05±1.30 20.28±1.40 22.80±0.51"
            ),
            "LAP-backward": _cells(
                "11.82±0.25 12.29±0.06 12.93±0.38 14.55±0.58 17.00±0.84 20.00±0.82 23.37±1.16"
            ),
            "LAP-forward-seq": _cells(
                "12.01±0.17 12.47±0.37 13.19±0.19 14.12±0.28 16.73±0.95 19.63±1.81 22.44±1.31"
            ),
            "LAP-backward-seq": _cells(
                "11.81±0.16 12.35±0.26 13.25±0.21 14.17±0.44 16.99±0.97 19.94±1.02 23.15±1.12"
            ),
        },
    ),
    "Table 3": Table(
        model="vgg11",
        dataset="cifar10",
        unpruned=11.51,
        taus=(11, 13, 15, 17, 19, 21, 23, 25),
        kept=(16.74, 12.10, 8.74, 6.32, 4.56, 3.30, 2.38, 1.72),
        errors={
            "MP": _cells(
                "11.41±0.24 12.38±0.14 13.54±0.35 16.08±1.13 19.76±1.67 28.12±3.45 45.38±11.69 55.97±15.99"
            ),
            "LAP": _cells(
                "11.19±0.15 11.79±0.44 12.95±0.14 13.95±0.17 15.59±0.35 20.96±6.02 22.00±1.09 28.96±3.30"
            ),
            "LAP-forward": _cells(
                "11.47±0.30 12.33±0.12 13.15±0.22 13.96±0.25 15.42±0.21 18.22±0.69 21.74±1.59 25.85±1.40"
            ),
        },
    ),
    "Table 4": Table(
        model="vgg16",
        dataset="cifar10",
        unpruned=9.33,
        taus=(14, 16, 18, 20, 22, 24, 26, 28),
        kept=(10.28, 7.43, 5.37, 3.88, 2.80, 2.03, 1.46, 1.06),
        errors={
            "MP": _cells(
                "9.55±0.11 10.78±0.45 13.42±2.19 17.83±3.08 26.61±4.91 48.87±5.85 69.39±11.85 83.47±5.60"
            ),
            "LAP": _cells(
                "9.35±0.18 10.07±0.19 11.52±0.26 12.57±0.34 14.23±0.27 17.01±1.46 25.03±2.08 32.45±12.20"
            ),
            "LAP-forward": _cells(
                "9.45±0.17 10.40±0.20 11.33±0.15 13.09±0.21 14.61±0.25 17.10±0.19 22.39±0.74 24.99±0.49"
            ),
        },
    ),
    "Table 5": Table(
        model="vgg19",
        dataset="cifar10",
        unpruned=9.02,
        taus=(13, 15, 17, 19, 21, 23, 25, 27),
        kept=(12.09, 8.74, 6.31, 4.56, 3.30, 2.38, 1.72, 1.24),
        errors={
            "MP": _cells(
                "8.99±0.12 9.90±0.09 11.43±0.24 15.62±1.68 29.10±8.78 40.27±11.51 63.27±11.91 77.90±7.94"
            ),
            "LAP": _cells(
                "8.89±0.14 9.51±0.22 10.56±0.28 12.11±0.44 13.64±0.77 16.38±1.47 20.88±1.71 22.82±0.81"
            ),
            "LAP-forward": _cells(
                "9.63±0.25 10.31±0.23 11.10±0.22 12.24±0.33 13.54±0.28 16.03±0.46 19.33±1.14 21.59±0.32"
            ),
        },
    ),
    "Table 6": Table(
        model="resnet18",
        dataset="cifar10",
        unpruned=8.68,
        taus=(14, 17, 20, 23, 26, 29, 32, 35),
        kept=(10.30, 6.33, 3.89, 2.40, 1.48, 0.92, 0.57, 0.36),
        errors={
            "MP": _cells(
                "8.18±0.33 8.74±0.15 9.82±0.18 11.28±0.30 14.31±0.18 18.56±0.36 22.93±0.93 26.77±1.04"
            ),
            "LAP": _cells(
                "8.09±0.10 8.97±0.22 9.74±0.15 11.35±0.20 13.73±0.24 16.29±0.29 20.22±0.53 22.45±0.64"
            ),
            "LAP-forward": _cells(
                "8.19±0.15 9.17±0.07 10.32±0.27 12.38±0.30 15.31±0.62 18.56±0.88 21.09±0.53 23.89±0.46"
            ),
        },
    ),
}

_MNIST_PAIR = {"dataset": "mnist", "methods": ("MP", "LAP")}
_DEEP = {"dataset": "cifar10", "methods": ("MP", "LAP", "LAP-forward")}
_ALL = tuple(TABLES["Table 1"].errors)

TARGETS: dict[str, tuple[dict[str, Any], ...]] = {
    "figure2": ({"model": "linear", **_MNIST_PAIR},),
    "figure3": tuple(
        {"model": "fcn", "activation": activation, **_MNIST_PAIR}
        for activation in ("sigmoid", "tanh", "relu")
    ),
    "figure4": ({"model": "fcn", **_MNIST_PAIR},),
    "table1": ({"model": "fcn", "dataset": "mnist", "methods": _ALL},),
    "table2": ({"model": "conv6", "dataset": "cifar10", "methods": _ALL},),
    "table3": ({"model": "vgg11", **_DEEP},),
    "table4": ({"model": "vgg16", **_DEEP},),
    "table5": ({"model": "vgg19", **_DEEP},),
    "table6": ({"model": "resnet18", **_DEEP},),
}
"""What each figure and table of the paper trains; levels and steps are the model's."""
