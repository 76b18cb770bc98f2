"""Convolutions: channels by groups; constant channels become an image, which knows the border."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lap_jax.shrinking.facts import Constant, Facts, of_axes
from lap_jax.shrinking.rules import FULL, Part, Rule, Wants, computed, narrow
from lap_jax.shrinking.slices import everything, is_empty, sizes
from lap_jax.shrinking.steps import Step


class _Conv(NamedTuple):
    """A convolution: axes of its features, and its kernel as a matrix (out, in of a group)."""

    lhs: Any
    rhs: Any
    out: Any
    groups: int
    alive: np.ndarray
    padded: bool


def _conv(step: Step, ins: Sequence[Facts]) -> _Conv | None:
    params = step.does.params  # type: ignore[union-attr]
    kernel = ins[1]
    if kernel.array is None or params["batch_group_count"] != 1:
        return None
    dims = params["dimension_numbers"]
    alive = np.broadcast_to(kernel.alive, kernel.shape).transpose(dims.rhs_spec)
    alive = np.asarray(alive.any(tuple(range(2, alive.ndim))))
    padded = any(low or high for low, high in params["padding"])
    padded |= any(by != 1 for by in params["lhs_dilation"])
    groups = params["feature_group_count"]
    return _Conv(dims.lhs_spec, dims.rhs_spec, dims.out_spec, groups, alive, padded)


def _inputs_of(conv: _Conv, each: np.ndarray) -> np.ndarray:
    """Return a vector over input features as a matrix (out, in of a group)."""
    rows = each.reshape(conv.groups, -1)
    return np.repeat(rows, conv.alive.shape[0] // conv.groups, 0)


def _learn_conv(step: Step, ins: Sequence[Facts], outs: Sequence[Facts]) -> Sequence[Facts]:
    conv, out = _conv(step, ins), outs[0]
    if conv is None:
        return outs
    axes: list[Constant | None] = [None] * len(out.shape)
    constant = ins[0].constants[conv.lhs[1]]
    value = np.zeros(out.shape[conv.out[1]])
    if constant is None:
        changes = conv.alive
    else:
        stays = constant.where & ((constant.value == 0) | (not conv.padded))
        changes = conv.alive & ~_inputs_of(conv, stays)
        number = np.where(stays, constant.value, 0).astype(np.float64)
        if number.any():
            kernel = np.broadcast_to(ins[1].array, ins[1].shape).transpose(conv.rhs)  # type: ignore[arg-type]
            sums = kernel.astype(np.float64).reshape(*kernel.shape[:2], -1).sum(2)
            value = (sums * _inputs_of(conv, number)).sum(1)
            if ins[1].fixed is not None:
                fixed = np.broadcast_to(ins[1].fixed, ins[1].shape).transpose(conv.rhs)
                loose = ~fixed.all(tuple(range(2, fixed.ndim)))
                changes = changes | (loose & (_inputs_of(conv, number) != 0))
    axes[conv.out[1]] = Constant(~np.asarray(changes.any(1)), value.astype(out.dtype))
    batch = ins[0].zero(conv.lhs[0])
    axes[conv.out[0]] = Constant(batch, np.zeros(len(batch), out.dtype))
    return [of_axes(out.shape, out.dtype, axes)]


class _Cut(NamedTuple):
    """The part of a convolution: groups, inputs and outputs in each, and folded input features."""

    groups: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    folded: np.ndarray


def _cut(part: Part, conv: _Conv) -> _Cut:
    facts, kernel = part.ins
    keep = part.keep[conv.out[1]]
    alive = conv.alive & keep[:, None]
    constant = facts.constants[conv.lhs[1]]
    folded = np.zeros(facts.shape[conv.lhs[1]], bool)
    if constant is not None:
        nought = constant.where & (constant.value == 0)
        if kernel.fixed is None:
            folded = constant.where & ~nought
        alive = alive & ~_inputs_of(conv, nought | folded)
    outputs = keep.reshape(conv.groups, -1)
    groups, inputs = outputs.any(1), alive.any(0)
    # What is taken of one group is taken of all: a constant feature there is convolved as it is.
    return _Cut(groups, inputs, outputs.any(0), folded & ~_features(groups, inputs))


def _features(groups: np.ndarray, within: np.ndarray) -> np.ndarray:
    return (groups[:, None] & within).ravel()


def _want_conv(part: Part) -> Wants:
    conv = _conv(part.step, part.ins)
    if conv is None:
        return FULL.wants(part)
    cut = _cut(part, conv)
    lhs, rhs = (list(everything(facts.shape)) for facts in part.ins)
    lhs[conv.lhs[0]] = part.keep[conv.out[0]]
    lhs[conv.lhs[1]] = _features(cut.groups, cut.inputs)
    rhs[conv.rhs[0]] = _features(cut.groups, cut.outputs)
    rhs[conv.rhs[1]] = cut.inputs
    return [tuple(lhs), tuple(rhs)]


def _compute_conv(part: Part, arrays: Sequence[Any], wide: bool) -> Sequence[Any]:
    conv = _conv(part.step, part.ins)
    if conv is None:
        return FULL.compute(part, arrays, wide)
    cut = _cut(part, conv)
    features = _features(cut.groups, cut.outputs)
    axis = conv.out[1]
    have = tuple(
        features if i == axis else part.keep[i] if i == conv.out[0] else own
        for i, own in enumerate(everything(part.outs[0].shape))
    )
    if is_empty((cut.inputs,)):
        dtype = jnp.result_type(*arrays)
        found = jnp.zeros(sizes(have), dtype if wide else part.outs[0].dtype)
    else:
        groups = {**part.eqn.params, "feature_group_count": int(cut.groups.sum())}
        (found,) = computed(part.eqn.replace(params=groups), arrays, wide)
    found = narrow(found, have, part.keep)
    image = _image(part, conv, cut)
    return [found if image is None else found + image.astype(found.dtype)]


def _image(part: Part, conv: _Conv, cut: _Cut) -> Any | None:
    """Return what constant channels add: beside the zeros of a padding, less at the border."""
    if not cut.folded.any():
        return None
    constant, kernel = part.ins[0].constants[conv.lhs[1]], part.ins[1]
    assert constant is not None
    assert kernel.array is not None
    shape = [1 if i == conv.lhs[0] else size for i, size in enumerate(part.ins[0].shape)]
    thin = [-1 if i == conv.lhs[1] else 1 for i in range(len(shape))]
    number = np.where(cut.folded, constant.value, 0).astype(part.ins[0].dtype)
    image = np.broadcast_to(number.reshape(thin), shape)
    with jax.ensure_compile_time_eval():
        whole = [image, np.broadcast_to(kernel.array, kernel.shape)]
        (found,) = computed(part.eqn, list(map(jnp.asarray, whole)), False)
    one = tuple(
        np.ones(1, bool) if i == conv.out[0] else own for i, own in enumerate(part.keep)
    )  # fmt: skip
    have = tuple(np.ones(size, bool) for size in found.shape)
    return narrow(found, have, one)


CONVOLUTION_RULE = Rule(_learn_conv, _want_conv, _compute_conv)
"""The rule of `conv_general_dilated`."""
