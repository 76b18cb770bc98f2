"""A trial: everything that a result depends on, and the names that follow from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

UNPRUNED = "unpruned"
"""The control: a network that is retrained whole, at level 0."""

SHUFFLED = " shuffled"
"""After a method's name: its masks, permuted within each layer."""

GRAPHS = ("declared", "identity", "main-path", "traced")
MEASURES = ("input", "active", "output")

GROUPS = {
    "2:4": (2, 4, -2),
    "2:4-outputs": (2, 4, -1),
    "4:8": (4, 8, -2),
    "4:8-outputs": (4, 8, -1),
}
"""Scopes that keep n of each m consecutive weights along an axis: n, m, axis."""

REPAIRS = ("statistics", "channels")
RATES = ("uniform", "erk", "ideal-gas")

SCOPES = ("global", "lamp", "neuron", *GROUPS)

WAY = (
    "graph",
    "horizon",
    "lags",
    "measured",
    "calibration",
    "effective",
    "steps",
    "scope",
    "repair",
    "rates",
)
"""Fields of a trial that, beside the method, say how it is pruned."""


@dataclass(frozen=True)
class Trial:
    """One network pruned once: everything that its result depends on.

    A field that is added later gets a default, and defaults are left out of the name, so that old
    names stay valid.

    Attributes:
      model, activation, dataset: what is trained, on what.
      method: a pruning method of `experiments.methods`, one of them followed by " shuffled" (the
        mask of each layer permuted within the layer), or "unpruned" (the control, at level 0).
      tau: level of sparsity.
      seed: of the network; its initialisation, batches and random scores follow from it.
      train_steps, retrain_steps: of Adam, before and after pruning.
      batch_size, learning_rate: of both.
      dtype: that the network computes in; parameters are float32.
      schedule: how the sparsity is reached: "one-shot", "iterative", "rewind" or "gradual".
      cycles: number of prunings of a schedule other than "one-shot".
      evaluate_every: steps of retraining between evaluations; 0: at its end alone.
      evaluate_on: examples of each split that are evaluated, the first ones; 0: all.
      sparsity: fraction removed of each layer but those that the network's setting leaves whole;
        0: the level decides.
      graph: what feeds what: as the network's setting declares it (traced, where it does not), with
        its shortcuts as identities, the main path of the traced network, or all of it.
      horizon, lags: of the method, as in `lap_jax.Method`.
      measured: fields of `lap_jax.Measured` that the method is given, joined by commas.
      calibration: training examples that they are measured on, the first ones.
      divisor: divides the network's widths.
      widths: of the network's hidden layers, joined by commas; empty: as its setting says.
      side: rows and columns that images are resized to; 0: as they are.
      train_on: training examples, the first ones; 0: all.
      augment: whether a network whose setting says so gets cropped and flipped images.
      shrunk: whether what `lap_jax.shrink` leaves is retrained, not the whole masked network; only
        where it is pruned at once.
      same_batches: whether the batches of retraining are the same for every method and level.
      effective: of the method, as in `lap_jax.Method`: kept weights are to lie on a path from input
        to output.
      steps: of the method, as in `lap_jax.Method`; 0: as many as the method of that name has.
      scope: what competes with what: "global" or "lamp" all weights, scores divided by their norm
        in the layer or as LAMP does; "neuron" whole neurons, channels and heads, of the traced
        network, the same share of each group, until no more parameters are left than the level
        leaves; of `GROUPS`, n of each m weights; empty: those of a layer.
      repair: of the pruned network, before retraining: "statistics" sets those of the batch norms
        anew (`lap_jax.recalibrate`), "channels" also the scale and shift of what each channel gives
        (`lap_jax.repair`); on as many training examples as ``calibration`` says.
      rates: how the weights that the level leaves in all are spread over the layers: "uniform",
        "erk" or "ideal-gas" (`lap_jax.erk_sparsity`, `lap_jax.ideal_gas_sparsity`); empty: as the
        level's rule says.
      decay: of the learning rate, from where it starts down to zero, once over the steps of
        training and once more over those of retraining: "none", "linear" or "cosine" (half a
        period).
    """

    model: str
    activation: str
    dataset: str
    method: str
    tau: int
    seed: int
    train_steps: int
    retrain_steps: int
    batch_size: int
    learning_rate: float
    dtype: str = "float32"
    schedule: str = "one-shot"
    cycles: int = 1
    evaluate_every: int = 0
    evaluate_on: int = 0
    sparsity: float = 0.0
    graph: str = "declared"
    horizon: int | Literal["all"] = 1
    lags: bool = False
    measured: str = ""
    calibration: int = 256
    divisor: int = 1
    widths: str = ""
    side: int = 0
    train_on: int = 0
    augment: bool = True
    same_batches: bool = False
    shrunk: bool = False
    effective: bool = False
    steps: int = 0
    scope: str = ""
    repair: str = ""
    rates: str = ""
    decay: str = "none"

    @property
    def name(self) -> str:
        """Sixteen hexadecimal digits of the settings' SHA-256."""
        return settings_name(asdict(self), DEFAULTS)

    @property
    def run(self) -> Trial:
        """The settings without those of the way, level and seed: the trials of a table share it."""
        return replace(as_declared(self), method="", tau=0, sparsity=0.0, seed=0)

    @property
    def level(self) -> float:
        """What orders results by how much is removed: the sparsity, or the level of the rule."""
        return self.sparsity or self.tau

    @property
    def way(self) -> str:
        """How it is pruned, as `run --methods` takes it: the method, and what is not default."""
        told = {name: getattr(self, name) for name in WAY if getattr(self, name) != DEFAULTS[name]}
        words = (name if value is True else f"{name}={value}" for name, value in told.items())
        return " ".join([self.method, *words])


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Trial)}


def settings_name(settings: dict[str, object], defaults: dict[str, object]) -> str:
    """Name settings by their hash, those at their default left out."""
    told = {key: value for key, value in settings.items() if defaults.get(key) != value}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def as_declared(trial: Trial) -> Trial:
    """Return a trial with every choice of `WAY` at its default."""
    return replace(trial, **{name: DEFAULTS[name] for name in WAY})


def choices_of(way: str) -> dict[str, Any]:
    """Read a way back: the method and its choices, as fields of a trial.

    Raises:
      ValueError: for a choice that there is not; the method itself is not looked up.

    Example:
      >>> choices_of("LAP graph=traced horizon=all")
      {'method': 'LAP', 'graph': 'traced', 'horizon': 'all'}
    """
    method, *words = way.split()
    shuffled = bool(words) and f" {words[0]}" == SHUFFLED
    found: dict[str, Any] = {"method": method + SHUFFLED * shuffled}
    for word in words[shuffled:]:
        name, _, value = word.partition("=")
        if name == "graph" and value in GRAPHS:
            found[name] = value
        elif name == "horizon" and (value == "all" or value.isdigit()):
            found[name] = value if value == "all" else int(value)
        elif word in ("lags", "effective"):
            found[name] = True
        elif name == "measured" and value and set(value.split(",")) <= set(MEASURES):
            found[name] = ",".join(each for each in MEASURES if each in value.split(","))
        elif name in ("calibration", "steps") and value.isdigit() and int(value):
            found[name] = int(value)
        elif value in {"scope": SCOPES, "repair": REPAIRS, "rates": RATES}.get(name, ()):
            found[name] = value
        else:
            raise ValueError(
                f"{word!r} in {way!r}: expected graph={'|'.join(GRAPHS)}, horizon=NUMBER|all, "
                f"lags, effective, steps=NUMBER, measured={','.join(MEASURES)}, "
                f"calibration=EXAMPLES, scope={'|'.join(SCOPES)}, repair={'|'.join(REPAIRS)} "
                f"or rates={'|'.join(RATES)}"
            )
    return found
