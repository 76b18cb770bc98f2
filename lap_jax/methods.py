"""The choices that make a pruning method, and every check of what goes together."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from lap_jax.errors import PruningError
from lap_jax.graph.layers import nearest
from lap_jax.integers import whole_number
from lap_jax.scoring.scores import SCORES, Score, wants
from lap_jax.selection.scope import Compare, Scope, checked_scope

MethodName = Literal[
    "MP", "RP", "LFP", "LBP", "LAP",
    "LAP-forward", "LAP-backward", "LAP-forward-seq", "LAP-backward-seq",
]  # fmt: skip
"""Names of `METHODS`, so that a type checker refuses others."""


class Method(NamedTuple):
    """A pruning method: any combination of a few choices.

    Attributes:
      score: "magnitude", "random", "lookahead", or a function of your own. It is called with a
        layer's kernel ``(*window, in / groups, out)``, float32 or wider, and with whatever its
        further arguments name: ``input`` and ``output``, what the neighbours make of the weight's
        two neurons (Eq. 5 and 9), of shapes that broadcast against the kernel's; ``key``, a PRNG
        key of the layer's own; and tensors that `lookahead_masks` is given under that name, such
        as gradients, in the shape of the kernel. It returns scores of the kernel's shape that are
        not negative, larger where a weight matters more. Weights that are read in several ways are
        scored for each, and the scores added in squares.
      direction: where lookahead looks: "both", "forward" (the next layers only) or "backward"; the
        other side is one.
      order: None scores every layer on its neighbours as they were; "forward" prunes the first
        layer first, each on the already pruned layers before it; "backward" the last layer first.
      steps: number of passes in which the sparsity grows evenly to its full value.
      horizon: how many layers lookahead reaches ahead and back: 1 as in the paper, 0 for magnitude,
        "all" for the path score through the whole network.
      effective: keep weights that lie on a path of kept weights from the network's input to its
        output, as far as there are as many; others do nothing. Passes are repeated on what is left
        of the candidates, until none is wasted.
      lags: score convolutions with the exact distortion of Eq. 4, which is not the product of norms
        of Eq. 5, but takes autocorrelations of the kernels before and after.
    """

    score: Literal["magnitude", "random", "lookahead"] | Score = "lookahead"
    direction: Literal["both", "forward", "backward"] = "both"
    order: Literal["forward", "backward"] | None = None
    steps: int = 1
    horizon: int | Literal["all"] = 1
    lags: bool = False
    effective: bool = False


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "MP": Method("magnitude"),
        "RP": Method("random"),
        "LFP": Method(direction="forward"),
        "LBP": Method(direction="backward"),
        "LAP": Method(),
        "LAP-forward": Method(order="forward"),
        "LAP-backward": Method(order="backward"),
        "LAP-forward-seq": Method(order="forward", steps=5),
        "LAP-backward-seq": Method(order="backward", steps=5),
    }
)
"""The nine methods of the paper, by its names (Sections 2.3 and 3.2)."""


def score_of(method: Method) -> Score:
    """Return the score function."""
    return SCORES[method.score] if isinstance(method.score, str) else method.score


def looks(method: Method) -> bool:
    """Return whether a method looks at the neighbours of a layer."""
    must, may = wants(score_of(method))
    return method.horizon != 0 and bool({"input", "output"} & {*must, *may})


def draws(method: Method) -> bool:
    """Return whether scores are random."""
    return "key" in wants(score_of(method))[0]


def checked_method(
    method: MethodName | Method | Score,
    steps: int | None = None,
    tensors: Collection[str] | None = None,
) -> Method:
    """Look a method up by name, or make one of a score; put in the steps and check every choice.

    Args:
      method, steps: as in `lookahead_masks`.
      tensors: names of those that the score is given; None: they are not known yet.

    Raises:
      PruningError: for an unknown name, or choices that do not go together.
    """
    if isinstance(method, str):
        if method not in METHODS:
            hint = nearest(method, METHODS) or f"; there are: {', '.join(map(repr, METHODS))}"
            raise PruningError(f"unknown method {method!r}{hint}")
        method = METHODS[method]
    if not isinstance(method, Method):
        if not callable(method):
            raise PruningError(
                f"method is {method!r}: expected a name of METHODS, a Method or a score function"
            )
        method = Method(method)
    if steps is not None:
        method = method._replace(steps=steps)
    if isinstance(method.score, str) or not callable(method.score):
        _check_among(method, "score", tuple(SCORES))
    _check_among(method, "direction", ("both", "forward", "backward"))
    _check_among(method, "order", (None, "forward", "backward"))
    method = method._replace(steps=whole_number("steps", method.steps, least=1))
    horizon = method.horizon
    if horizon != "all" and (not isinstance(horizon, int) or horizon < 0):
        raise PruningError(f"horizon is {horizon!r}: expected 0, 1, a larger number, or 'all'")
    if method.lags and (horizon != 1 or method.direction != "both"):
        raise PruningError("lags look one layer ahead and back: use horizon=1, direction='both'")
    if method.lags and method.score not in ("lookahead", "magnitude", "random"):
        raise PruningError("lags give a factor per pair of neurons: use score='lookahead'")
    if tensors is not None:
        _check_tensors(method, tensors)
    return method


def _check_among(method: Method, field: str, allowed: tuple[str | None, ...]) -> None:
    value = getattr(method, field)
    if value not in allowed:
        raise PruningError(f"{field} is {value!r}: expected one of {allowed}")


def _check_tensors(method: Method, tensors: Collection[str]) -> None:
    """Refuse tensors that the score does not take, and a score without one that it needs."""
    must, may = wants(score_of(method))
    own = {"input", "output", "key"}
    called = getattr(method.score, "__name__", method.score)
    for name in tensors:
        if name in own or name not in (*must, *may):
            named = ", ".join(map(repr, [each for each in (*must, *may) if each not in own]))
            raise PruningError(
                f"tensors hold {name!r}, which the score {called!r} does not take: it takes "
                f"{named or 'none'}"
            )
    for name in must:
        if name not in own and name not in tensors:
            raise PruningError(
                f"the score {called!r} takes {name!r}: pass tensors={{{name!r}: tree}}, a tree of "
                "arrays with the paths and shapes of the parameters"
            )


def checked_scope_of(method: Method, scope: Compare | Scope) -> Scope:
    """Return the scope of a method, every choice checked.

    Raises:
      PruningError: for an unknown scope, or one that does not go with the method.
    """
    scope = checked_scope(scope)
    if scope.compare == "global" and method.order is not None:
        raise PruningError(
            f"method with order {method.order!r} prunes layer after layer, global scope all at "
            "once: use 'LAP' with steps, or scope='layer'"
        )
    if scope.unit == "neuron":
        _check_neurons(method)
    return scope


def _check_neurons(method: Method) -> None:
    """Refuse choices that say nothing of whole neurons."""
    for field, why in (
        (
            "effective",
            "neurons go with all that reads them, and none is left without a path",
        ),
        ("lags", "a neuron has no place within a window: its score is a product of norms"),
    ):
        if getattr(method, field):
            raise PruningError(f"{field} goes with weights, not with unit='neuron': {why}")
    if method.score == "lookahead" and method.direction != "both":
        raise PruningError(
            f"direction is {method.direction!r}: a neuron lies between the layers that make it and "
            "those that read it, and its score is a product of both; use 'LAP', or 'MP' for the "
            "norm of what makes it"
        )


def warn_if_cancelled(method: Method, scope: Scope) -> None:
    """Say where a factor of the score is the same for all that compete, and so without effect."""
    if scope.group is None or method.score != "lookahead" or not looks(method):
        return
    lost = {-2: "forward", -1: "backward"}.get(scope.axis or 0)
    if lost and method.direction in ("both", lost):
        other = "backward" if lost == "forward" else "forward"
        left = f"as if it only looked {other}" if method.direction == "both" else "as magnitude"
        warnings.warn(
            f"groups along axis {scope.axis} compare weights of one "
            f"{'output' if lost == 'forward' else 'input'} neuron: the look-{lost} factor is the "
            f"same for all of them and cancels, so the method prunes {left}",
            stacklevel=3,
        )
