"""What shares the channels of a network without being an edge of it: biases, and heads' weights.

Whoever removes a neuron removes its bias with it, and of a head the queries and keys with the
values that they weigh. No lookahead goes that way, so that neither is an edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lap_jax.tracing import channels, views
from lap_jax.tracing.builder import GraphBuilder
from lap_jax.tracing.channels import NONE
from lap_jax.tracing.values import FromParams, Source, Traced, fit, traced


def shifted(builder: GraphBuilder, value: Traced, known: FromParams, line: str) -> None:
    """Record which entries of parameters are added to which channels.

    Where that is not told, channels may hold numbers that come from no layer: `GraphBuilder.loose`.
    """
    shape = tuple(np.broadcast_shapes(value.shape, known.shape))
    if not value.sources or known.is_constant:
        return
    sources = [channels.held(source.ids, source.ids.shape) for source in value.sources]
    full, added = fit(value, shape), fit(known, shape)
    assert isinstance(full, Traced)
    assert isinstance(added, FromParams)
    bare = np.bool_(True)
    for source in full.sources:
        bare = bare & (channels.small(source.ids) == NONE)
    if added.powers is None or bool(bare.any()) or not sources:
        builder.loosen(known.leaves, line)
        return
    for power in added.powers:
        axes = [axis for axis, by in enumerate(power.view.strides) if by]
        entries = channels.held(views.entries(power.view, axes), shape)
        for source in full.sources:
            _, rows = channels.distinct([source.ids, entries], 1)
            builder.share((power.view.leaf, source.node), rows[:, ::-1])


def beside(builder: GraphBuilder, values: Sequence[object], line: str) -> None:
    """Record parameters that stand in the place of channels, or beside them."""
    own = [value for value in values if isinstance(value, FromParams)]
    if any(value.sources for value in traced([v for v in values if isinstance(v, Traced)])):
        for value in own:
            builder.loosen(value.leaves, line)


def one_head(builder: GraphBuilder, name: str, ids: np.ndarray, count: int) -> Source:
    """Put channels of a product together that one weight of positions is the sum of.

    Args:
      builder, name: the product.
      ids: its channels along the axes of the weights, and along those that are contracted.
      count: how many axes the weights have.

    Returns:
      Of each weight one of its channels, which stands for all.
    """
    place = (slice(None),) * count + (slice(1),) * (ids.ndim - count)
    spread = np.broadcast_to(ids[place], ids.shape)
    first = ids[place].reshape(ids.shape[:count])
    weighed(builder, [Source(name, spread)], [Source(name, ids)])
    return Source(name, first)


def weighed(builder: GraphBuilder, heads: Sequence[Source], sources: Sequence[Source]) -> None:
    """Record that weights of positions multiply channels, element by element."""
    for head in heads:
        for source in sources:
            _, rows = channels.distinct([head.ids, source.ids], 2)
            builder.share((head.node, source.node), rows[(rows != NONE).all(1)])


def both_heads(*parts: tuple[Source, ...]) -> tuple[Source, ...]:
    """Return the heads of several weights that meet."""
    found: list[Source] = []
    for part in parts:
        found += [head for head in part if not any(head.carries_the_same(own) for own in found)]
    return tuple(found)
