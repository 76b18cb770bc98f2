"""What competes with what, and what is kept or removed as a whole: the choice, and its checks."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from lap_jax.errors import PruningError
from lap_jax.graph.layers import nearest
from lap_jax.integers import whole_number

Compare = Literal["layer", "global"]
"""What competes with what; such a word stands for a `Scope`."""


class Scope(NamedTuple):
    """What competes with what, and what is kept or removed as a whole.

    Attributes:
      compare: "layer": the weights of each layer; "global": those of all layers together.
      normalize: for "global", because layers live on different scales. "norm" divides the scores of
        a layer by their Euclidean norm, "lamp" squares each and divides by the sum of the squares
        that are not smaller (Lee et al. 2021; it sorts every layer, which takes longer than all the
        rest), "none" compares scores as they are.
      unit: (1, 1), single weights; (b, c), blocks of b inputs by c outputs at each place of the
        window; "channel", all weights of an output channel, or with ``axis`` -2 of an input channel
        (of a grouped convolution: the same one of each group); "neuron", all that makes and reads a
        neuron, a head or a channel of a residual stream, in all layers (`neuron_groups`). A unit's
        score is the Euclidean norm of its scores; of a neuron, of those of weights that lead to it.
        ``unit_norm`` chooses another.
      group: (n, m) keeps n of each m consecutive weights along ``axis``, "n:m sparsity"; the
        sparsity of a layer must then be 1 - n / m, or 0 to leave it whole.
      axis: -2 the inputs, -1 the outputs: along which groups lie (None: the inputs), or which
        channels are removed (None: the outputs).
      outputs: whether output channels that the network returns may be removed too. Otherwise the
        layers that they come from stay whole where output channels are removed.
      at_least, multiple_of, uniform: of ``unit="neuron"``: how many neurons of a group stay at
        least; of what the number of channels is to be a multiple, rounded up (8, 128: what
        processors compute at a time); whether all layers of a stack are to keep equally many.
      queries: of ``unit="neuron"``, where several heads of queries share a key: one query of every
        key goes at a time, in place of a key with all of its queries. Keys and values stay, all
        with equally many queries.
      unit_norm: of blocks and channels: "l2" scores a unit by the Euclidean norm of its scores,
        "l1" by their sum.
    """

    compare: Compare = "layer"
    normalize: Literal["norm", "lamp", "none"] = "norm"
    unit: tuple[int, int] | Literal["channel", "neuron"] = (1, 1)
    group: tuple[int, int] | None = None
    axis: int | None = None
    outputs: bool = False
    at_least: int = 1
    multiple_of: int = 1
    uniform: bool = False
    queries: bool = False
    unit_norm: Literal["l2", "l1"] = "l2"


def checked_scope(scope: Compare | Scope) -> Scope:
    """Return a scope, by its name or as it is, with every choice checked.

    Raises:
      PruningError: for an unknown name or choices that do not go together.
    """
    if isinstance(scope, str):
        scope = Scope(compare=scope)
    for field, allowed in (
        ("compare", ("layer", "global")),
        ("normalize", ("norm", "lamp", "none")),
        ("unit_norm", ("l2", "l1")),
    ):
        value = getattr(scope, field)
        if value not in allowed:
            hint = nearest(str(value), allowed)
            raise PruningError(f"scope: {field} is {value!r}, expected one of {allowed}{hint}")
    if scope.unit not in ("channel", "neuron") and not _is_pair(scope.unit):
        raise PruningError(
            f"scope: unit is {scope.unit!r}, expected 'channel', 'neuron' or a block (b, c)"
        )
    if scope.unit_norm != "l2" and scope.unit in ((1, 1), "neuron"):
        raise PruningError(
            f"scope: unit_norm is {scope.unit_norm!r}, which goes with blocks and channels: a "
            "weight is a single score, and a neuron's is a product of Euclidean norms"
        )
    _check_neurons(scope)
    if scope.group is not None:
        if not _is_pair(scope.group) or scope.group[0] >= scope.group[1]:
            raise PruningError(f"scope: group is {scope.group!r}, expected (n, m) with 0 < n < m")
        if scope.compare != "layer" or scope.unit != (1, 1):
            raise PruningError("scope: a group (n, m) goes with single weights of one layer alone")
    if scope.axis is None:
        axis = None if scope.unit == "neuron" else -1 if scope.unit == "channel" else -2
        return scope._replace(axis=axis)
    if isinstance(scope.axis, bool) or not isinstance(scope.axis, int):
        raise PruningError(f"scope: axis is {scope.axis!r}, expected -2 (inputs) or -1 (outputs)")
    if scope.unit == "channel" and scope.axis not in (-2, -1):
        raise PruningError(
            f"scope: axis is {scope.axis}, expected -2 (input channels) or -1 (output channels)"
        )
    return scope


def _check_neurons(scope: Scope) -> None:
    for field in ("at_least", "multiple_of"):
        whole_number(f"scope: {field}", getattr(scope, field), least=1)
    if scope.unit == "neuron":
        if scope.axis is not None or scope.outputs:
            raise PruningError("scope: a neuron goes from all layers: leave axis and outputs out")
    elif (scope.at_least, scope.multiple_of, scope.uniform, scope.queries) != (1, 1, False, False):
        raise PruningError(
            "scope: at_least, multiple_of, uniform and queries go with unit='neuron' alone"
        )


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(each, int) and each > 0 for each in value)
    )
