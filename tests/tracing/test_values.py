"""Values: what becomes of sources and of products of parameters as data moves."""

import numpy as np

from lap_jax.tracing.channels import numbered
from lap_jax.tracing.movements import Reshape, Take, Transpose
from lap_jax.tracing.values import FromParams, Power, Source, Traced, joined, moved, stacked
from lap_jax.tracing.views import whole


def kernel() -> FromParams:
    return FromParams((3, 4), (Power(whole("k", (3, 4))),))


def activation(node: str = "a") -> Traced:
    return Traced((2, 4), (Source(node, numbered((2, 4), [1], [4])),))


def test_a_kernel_stays_one_while_strides_tell_it() -> None:
    turned = moved(kernel(), (Transpose((1, 0)),), (4, 3))
    assert isinstance(turned, FromParams)
    assert turned.kernel is not None
    assert turned.kernel.strides == (1, 4)
    lost = moved(turned, (Reshape((12,)),), (12,))
    assert isinstance(lost, FromParams)
    assert lost.powers is None
    assert lost.leaves == {"k"}


def test_channels_that_are_taken_away_take_their_source_along() -> None:
    left = moved(activation(), (Take(np.array([2, 0]), 1),), (2, 2))
    assert isinstance(left, Traced)
    np.testing.assert_array_equal(left.sources[0].ids, [[2, 0], [2, 0]])
    gone = moved(activation(), (Take(np.array([-1, -1]), 1),), (2, 2))
    assert isinstance(gone, Traced)
    assert gone.sources == ()


def test_joined_values_hold_the_channels_of_each() -> None:
    both = joined([activation("a"), activation("b"), activation("a")], 1)
    assert isinstance(both, Traced)
    assert both.shape == (2, 12)
    found = {source.node: source.ids[0].tolist() for source in both.sources}
    assert found == {
        "a": [0, 1, 2, 3, *[-1] * 4, 0, 1, 2, 3],
        "b": [*[-1] * 4, 0, 1, 2, 3, *[-1] * 4],
    }
    assert stacked([activation(), activation()]).shape == (2, 2, 4)


def test_a_constant_moves_when_it_is_asked_for() -> None:
    constant = FromParams((2, 3), (), 1.0, lambda: np.arange(6).reshape(2, 3))
    turned = moved(constant, (Transpose((1, 0)),), (3, 2))
    assert isinstance(turned, FromParams)
    assert turned.compute is not None
    np.testing.assert_array_equal(turned.compute(), np.arange(6).reshape(2, 3).T)
