"""Scopes against a rewrite in NumPy that sorts."""

import operator
import warnings
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lap_jax
from lap_jax import LayerSpec, PruningError, Scope, lookahead_masks, masks_from_scores
from tests.networks import EQUAL, mlp

Arrays = dict[str, np.ndarray]


def first_of_largest(scores: np.ndarray, kept: int) -> np.ndarray:
    """Return the mask of the largest of a vector; of equal ones the first."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores, kind="stable")[:kept]] = True
    return mask


def wanted_globally(scores: Arrays, sparsity: float) -> Arrays:
    joined = np.concatenate([each.ravel() for each in scores.values()])
    mask = first_of_largest(joined, round((1 - sparsity) * joined.size))
    ends = np.cumsum([each.size for each in scores.values()])[:-1]
    parts = np.split(mask, ends)
    return {
        name: part.reshape(each.shape)
        for (name, each), part in zip(scores.items(), parts, strict=True)
    }


def lamp(scores: np.ndarray) -> np.ndarray:
    """Score a weight by its square over the sum of the squares not smaller (Lee et al. 2021)."""
    squares = scores.astype(np.float64) ** 2
    return squares / np.array([squares[squares >= s].sum() for s in squares.ravel()]).reshape(
        scores.shape
    )


def some(seed: int = 0, ties: bool = False) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 4, 8), "dense": (16, 12), "tiny": (16, 12)}
    scales = {"conv": 1.0, "dense": 0.1, "tiny": 30.0}
    scores = {
        name: np.abs(scales[name] * rng.normal(size=shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    return {name: np.round(each, 1) for name, each in scores.items()} if ties else scores


def assert_equal(found: Any, wanted: Arrays) -> None:
    chex.assert_type(list(found.values()), bool)
    chex.assert_trees_all_equal(dict(found), wanted)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.999])
def test_layer_scope_keeps_the_largest_of_each_layer(sparsity: float, ties: bool) -> None:
    scores = some(ties=ties)
    wanted = {
        name: first_of_largest(each.ravel(), round((1 - sparsity) * each.size)).reshape(each.shape)
        for name, each in scores.items()
    }
    assert_equal(masks_from_scores(scores, sparsity), wanted)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("normalize", ["none", "norm", "lamp"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_global_scope_keeps_the_largest_of_all(sparsity: float, normalize: Any, ties: bool) -> None:
    scores = some(ties=ties)
    ranked: Arrays = {
        "none": lambda: scores,
        "norm": lambda: {k: s / np.linalg.norm(s.astype(np.float64)) for k, s in scores.items()},
        "lamp": lambda: {k: lamp(s) for k, s in scores.items()},
    }[normalize]()
    if ties and normalize != "none":
        # Ties between layers depend on the last bit of a norm; those inside of a layer do not.
        found = masks_from_scores(scores, sparsity, scope=Scope("global", normalize))
        for name, mask in found.items():
            inside = np.asarray(mask)
            assert_equal(
                {name: inside},
                {name: first_of_largest(scores[name].ravel(), inside.sum()).reshape(inside.shape)},
            )
        return
    found = masks_from_scores(scores, sparsity, scope=Scope("global", normalize))
    assert_equal(found, wanted_globally(ranked, sparsity))


def test_layers_of_other_types_are_compared_by_value(x64: None) -> None:
    scores = some()
    scores["dense"] = scores["dense"].astype(np.float64)
    found = masks_from_scores(scores, 0.6, scope=Scope("global", "none"))
    assert_equal(found, wanted_globally(scores, 0.6))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("axis", [-2, -1])
@pytest.mark.parametrize("group", [(2, 4), (1, 4), (3, 4), (1, 2)])
def test_n_of_m_keeps_n_of_each_group(group: tuple[int, int], axis: int, ties: bool) -> None:
    kept, of = group
    scores = some(ties=ties)
    wanted = {}
    for name, each in scores.items():
        rows = np.moveaxis(each, axis, -1)
        flat = rows.reshape(-1, of)
        mask = np.stack([first_of_largest(row, kept) for row in flat]).reshape(rows.shape)
        wanted[name] = np.moveaxis(mask, -1, axis)
    found = masks_from_scores(scores, 1 - kept / of, scope=Scope(group=group, axis=axis))
    assert_equal(found, wanted)


def test_a_layer_may_be_left_whole_beside_groups() -> None:
    scores = some() | {"odd": np.ones((3, 3), np.float32)}
    levels = {"odd": 0.0, "conv": 0.0, "*": 0.5}
    found = masks_from_scores(scores, levels, scope=Scope(group=(2, 4)))
    assert np.asarray(found["odd"]).all()
    assert np.asarray(found["conv"]).all()
    assert np.asarray(found["dense"]).sum() == scores["dense"].size // 2


@pytest.mark.parametrize("block", [(2, 4), (4, 1), (1, 4), (4, 4)])
@pytest.mark.parametrize("compare", ["layer", "global"])
def test_blocks_stay_or_go_as_a_whole(compare: Any, block: tuple[int, int]) -> None:
    scores = some(3)
    rows, columns = block
    summed = {}
    for name, each in scores.items():
        shape = (*each.shape[:-2], each.shape[-2] // rows, rows, each.shape[-1] // columns, columns)
        summed[name] = np.sqrt((each.astype(np.float64).reshape(shape) ** 2).sum((-3, -1)))
    if compare == "global":
        units = wanted_globally(summed, 0.7)
    else:
        units = {
            name: first_of_largest(each.ravel(), round(0.3 * each.size)).reshape(each.shape)
            for name, each in summed.items()
        }
    wanted = {name: mask.repeat(rows, -2).repeat(columns, -1) for name, mask in units.items()}
    scope = Scope(compare, "none", unit=block)
    assert_equal(masks_from_scores(scores, 0.7, scope=scope), wanted)


@pytest.mark.parametrize("scale", [1.0, 1e-42, 1e35])
@pytest.mark.parametrize("unit", [(4, 4), "channel"])
def test_units_may_be_scored_by_the_sum_of_their_scores(unit: Any, scale: float) -> None:
    """With one large score beside many of a middling size, where the two norms disagree."""
    scores = some(5)
    # A few whole numbers: sums of them are exact in any order.
    scores = {name: np.round(4 * each / each.max()) for name, each in scores.items()}
    scores["dense"] = np.zeros((8, 8), np.float32)
    scores["dense"][:4, :4] = 1  # l1: 16, l2: 4
    scores["dense"][4, 4] = 6  # l1: 6, l2: 6
    wanted = {}
    for name, each in scores.items():
        if unit == "channel":
            kept = first_of_largest(each.reshape(-1, each.shape[-1]).sum(0), each.shape[-1] // 2)
            wanted[name] = np.broadcast_to(kept, each.shape)
            continue
        shape = (*each.shape[:-2], each.shape[-2] // 4, 4, each.shape[-1] // 4, 4)
        sums = each.reshape(shape).sum((-3, -1))
        kept = first_of_largest(sums.ravel(), round(0.5 * sums.size)).reshape(sums.shape)
        wanted[name] = kept.repeat(4, -2).repeat(4, -1)
    given = {name: (each * np.float32(scale)).astype(np.float32) for name, each in scores.items()}
    scope = Scope(unit=unit, unit_norm="l1", outputs=unit == "channel")
    assert_equal(masks_from_scores(given, 0.5, scope=scope), wanted)
    if unit == (4, 4):
        level = {"dense": 0.75, "*": 0.5}
        first = masks_from_scores(given, level, scope=scope)["dense"]
        second = masks_from_scores(given, level, scope=scope._replace(unit_norm="l2"))["dense"]
        assert [bool(first[place, place]) for place in (0, 4)] == [True, False]
        assert [bool(second[place, place]) for place in (0, 4)] == [False, True]


def test_channels_stay_or_go_as_a_whole() -> None:
    scores = some(4)
    wanted = {}
    for name, each in scores.items():
        norms = np.sqrt((each.astype(np.float64) ** 2).reshape(-1, each.shape[-1]).sum(0))
        kept = first_of_largest(norms, round(0.5 * norms.size))
        wanted[name] = np.broadcast_to(kept, each.shape)
    assert_equal(masks_from_scores(scores, 0.5, scope=Scope(unit="channel", outputs=True)), wanted)


# ---------------------------------------------------------------- numbers that are subnormal

UNIT = 2.0**-149
"""The smallest float32 above zero; processors take all below ``2**23`` of them for zero."""


def in_units(seed: int, most: int = 2**22) -> dict[str, Any]:
    """Scores as whole numbers of units."""
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 4, 8), "dense": (16, 12), "tiny": (16, 12)}
    return {name: rng.integers(0, most, shape) for name, shape in shapes.items()}


def as_scores(numbers: dict[str, Any]) -> Arrays:
    return {name: each.astype(np.int32).view(np.float32) for name, each in numbers.items()}


@pytest.mark.parametrize("most", [2**22, 40], ids=["many values", "ties"])
@pytest.mark.parametrize(
    "scope",
    [
        Scope(),
        Scope(group=(2, 4)),
        Scope(group=(2, 4), axis=-1),
        Scope("global", "none"),
        Scope(unit="channel", outputs=True),
        Scope(unit=(2, 2)),
        Scope("global", "none", unit="channel"),
        Scope("global", "none", unit=(2, 4)),
    ],
    ids=str,
)
def test_subnormal_scores_are_told_apart_as_whole_numbers_are(scope: Scope, most: int) -> None:
    """The same masks as those of the numbers of units, which float32 holds exactly."""
    numbers = in_units(5, most)
    if scope.unit != (1, 1):  # A norm of units is rounded to one: where that can be, it is exact.
        numbers = {name: each // 1024 * 1024 for name, each in numbers.items()}
        numbers = {name: alone(scope, each) for name, each in numbers.items()}
    large = {name: each.astype(np.float32) for name, each in numbers.items()}
    found = masks_from_scores(as_scores(numbers), 0.5, scope=scope)
    wanted = masks_from_scores(large, 0.5, scope=scope)
    assert_equal(found, {name: np.asarray(mask) for name, mask in wanted.items()})


def alone(scope: Scope, numbers: Any) -> Any:
    """Numbers of which each unit holds one that is not zero, and so is its norm."""
    left = np.zeros_like(numbers)
    if scope.unit == "channel":
        flat = left.reshape(-1, left.shape[-1])
        flat[0] = numbers.reshape(flat.shape)[0]
    else:
        assert not isinstance(scope.unit, str)
        rows, columns = scope.unit
        left[..., ::rows, ::columns] = numbers[..., ::rows, ::columns]
    return left


@pytest.mark.parametrize("normalize", ["norm", "lamp"])
@pytest.mark.parametrize("seed", [6, 7])
def test_subnormal_scores_are_compared_by_their_share(normalize: Any, seed: int) -> None:
    numbers = in_units(seed)
    scope = Scope("global", normalize)
    ranked = {
        name: lamp(each) if normalize == "lamp" else each / np.linalg.norm(each.astype(float))
        for name, each in numbers.items()
    }
    found = masks_from_scores(as_scores(numbers), 0.6, scope=scope)
    assert_equal(found, wanted_globally(ranked, 0.6))


@pytest.mark.parametrize(
    "scope",
    [Scope(), Scope("global", "none"), Scope(group=(2, 4)), Scope(unit="channel", outputs=True)],
    ids=str,
)
def test_weights_that_are_subnormal_are_pruned_by_their_magnitude(scope: Scope) -> None:
    params = {name: {"kernel": -each} for name, each in as_scores(in_units(8)).items()}
    del params["tiny"]
    large = {name: {"kernel": each.astype(np.float32)} for name, each in in_units(8).items()}
    layers: list[Any] = ["conv", LayerSpec("dense", previous=())]
    found = lookahead_masks(params, layers, 0.5, method="MP", scope=scope)
    del large["tiny"]
    chex.assert_trees_all_equal(
        found, lookahead_masks(large, layers, 0.5, method="MP", scope=scope)
    )


@given(st.data())
def test_any_counts_and_ties(data: Any) -> None:
    """Two arrays of few different values: the count is exact, and the first of equals stay."""
    values = st.sampled_from([0.0, 1e-30, 0.5, 0.5000001, 1.0, 3e38])
    scores = {
        name: np.array(data.draw(st.lists(values, min_size=4, max_size=4)), np.float32)
        for name in ("a", "b")
    }
    sparsity = data.draw(st.floats(0, 0.99))
    assert_equal(
        masks_from_scores(scores, sparsity, scope=Scope("global", "none")),
        wanted_globally(scores, sparsity),
    )


PARAMS = {
    name: {"kernel": layer["kernel"] * np.float32(10.0**-i)}
    for i, (name, layer) in enumerate(mlp(widths=EQUAL).items())
}


@pytest.mark.parametrize("method", ["MP", "LAP", "LFP"])
@pytest.mark.parametrize(
    "scope",
    [
        Scope("global"),
        Scope("global", "none"),
        Scope("global", "lamp"),
        Scope(unit=(4, 2)),
        Scope(unit="channel", outputs=True),
        Scope("global", unit="channel", outputs=True),
    ],
)
def test_masks_of_a_method_are_those_of_its_scores(method: Any, scope: Scope) -> None:
    scores = lap_jax.lookahead_scores(PARAMS, list(PARAMS), method=method)
    masks = lookahead_masks(PARAMS, list(PARAMS), 0.6, method=method, scope=scope)
    wanted = masks_from_scores(scores, 0.6, scope=scope)
    assert_equal(
        {name: masks[name]["kernel"] for name in PARAMS},
        {name: np.asarray(mask) for name, mask in wanted.items()},
    )


@pytest.mark.parametrize(
    "scope", [Scope("global"), Scope(unit="channel", outputs=True), Scope(unit=(2, 2))]
)
def test_scopes_under_jit_and_vmap(scope: Scope) -> None:
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1] * 2, leaf[:, ::-1]]), PARAMS)

    def masks(params: Any) -> Any:
        return lookahead_masks(params, list(PARAMS), 0.7, scope=scope)

    together = jax.jit(jax.vmap(masks))(stacked)
    for index in range(3):
        alone = masks(jax.tree.map(operator.itemgetter(index), stacked))
        mine = jax.tree.map(operator.itemgetter(index), together)
        chex.assert_trees_all_equal(mine, alone)


@pytest.mark.parametrize(
    "scope",
    [
        Scope("global", "none"),
        Scope(group=(1, 4)),
        Scope(unit="channel", outputs=True),
        Scope(unit=(2, 2)),
    ],
)
def test_what_is_pruned_in_a_step_stays_pruned(scope: Scope) -> None:
    method = lap_jax.Method("magnitude")
    one = lookahead_masks(PARAMS, list(PARAMS), 0.75, method=method, scope=scope)
    four = lookahead_masks(PARAMS, list(PARAMS), 0.75, method=method, steps=4, scope=scope)
    chex.assert_trees_all_equal(one, four)


@pytest.mark.parametrize(("axis", "same"), [(-2, "LBP"), (-1, "LFP")])
def test_groups_make_one_factor_cancel_and_say_so(axis: int, same: Any) -> None:
    scope = Scope(group=(2, 4), axis=axis)
    with pytest.warns(UserWarning, match="cancels") as warned:
        found = lookahead_masks(PARAMS, list(PARAMS), 0.5, scope=scope)
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = lookahead_masks(PARAMS, list(PARAMS), 0.5, scope=scope, method=same)
    chex.assert_trees_all_equal(found, wanted)


@pytest.mark.parametrize(
    ("scores", "sparsity", "scope", "message"),
    [
        ({"a": np.array([1.0, np.nan])}, 0.5, "layer", "'a' have NaN"),
        ({"a": np.array([1.0, -2.0])}, 0.5, "layer", "'a' have -2"),
        ({"a": np.arange(4)}, 0.5, "layer", "int"),
        ({}, 0.5, "layer", "no array"),
        (some(), 0.5, "globl", "nearest: 'global'"),
        (some(), 0.5, Scope(normalize="max"), "normalize is 'max'"),  # type: ignore[arg-type]
        (some(), 0.5, Scope(unit=(2, 0)), "unit is (2, 0)"),
        (some(), 0.5, Scope(group=(4, 4)), "group is (4, 4)"),
        (some(), 0.5, Scope("global", group=(2, 4)), "one layer alone"),
        (some(), 0.6, Scope(group=(2, 4)), "2:4 groups have 0.5"),
        (some(), 0.6, Scope(group=(2, 5)), "'conv' has 4 weights along axis -2"),
        (some(), 0.5, Scope(unit=(3, 1)), "'conv' of shape (3, 3, 4, 8)"),
        ({"v": np.ones(4)}, 0.5, Scope(unit="channel", outputs=True), "no inputs and outputs"),
        (some(), {"conv": 0.1, "*": 0.5}, "global", "one sparsity for all"),
        (some(), 1.0, "global", "in [0, 1)"),
    ],
)
def test_bad_scores_and_scopes(scores: Any, sparsity: Any, scope: Any, message: str) -> None:
    with pytest.raises(PruningError) as error:
        masks_from_scores(scores, sparsity, scope=scope)
    assert message in str(error.value)


def test_an_order_needs_layers() -> None:
    with pytest.raises(PruningError, match="all at once"):
        lookahead_masks(PARAMS, list(PARAMS), 0.5, method="LAP-forward", scope="global")
