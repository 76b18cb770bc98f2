"""Numbers of which no masks can be made are refused by name; under a trace counts still hold."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lap_jax import Measured, Method, Norm, Scope, lookahead_masks, lookahead_scores
from lap_jax.checks import check_lowest, is_seen
from tests import oracle
from tests.networks import EQUAL, assert_kept, kernels, mlp, norms_of, refused

NAMES = list(mlp())
NINE = ["MP", "RP", "LFP", "LBP", *list(oracle.METHODS)[3:]]
NOT_FINITE = [np.nan, np.inf, -np.inf]


def masks(params: Any, sparsity: Any = 0.6, **settings: Any) -> Any:
    """Of a network of dense layers in order."""
    return lookahead_masks(params, list(params), sparsity, **settings)


def test_what_is_seen() -> None:
    seen = {}

    def look(x: jax.Array) -> jax.Array:
        seen["argument"], seen["closed over"] = is_seen(x), is_seen(one)
        return x

    one = jnp.ones(2)
    jax.jit(look)(one)
    assert seen == {"argument": False, "closed over": True}
    assert is_seen(one)
    assert is_seen(np.ones(2))
    assert is_seen(1.0)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("method", ["MP", "LAP", "LAP-backward-seq"])
def test_weights_that_are_not_finite_with_layer_and_count(bad: float, method: str) -> None:
    params = mlp()
    params["Dense_1"]["kernel"].flat[[1, 5, 20]] = bad
    with refused("'Dense_1'", "3"):
        masks(params, method=method)
    with refused("'Dense_1'", "3"):
        lookahead_scores(params, NAMES, method="LAP")


def test_the_first_bad_layer_is_named() -> None:
    params = mlp()
    params["Dense_1"]["kernel"].flat[0] = np.nan
    params["Dense_2"]["kernel"].flat[[0, 1]] = np.nan
    with refused("'Dense_1'", "1"):
        masks(jax.tree.map(jnp.asarray, params))


@pytest.mark.parametrize("method", [name for name in NINE if name != "RP"])
def test_counts_stay_exact_inside_jit_with_bad_weights(method: str) -> None:
    params = mlp()
    jitted = jax.jit(lambda tree: masks(tree, 0.8, method=method))
    for bad in NOT_FINITE:
        params["Dense_0"]["kernel"][2, 3] = bad
        params["Dense_1"]["kernel"][1, 1] = bad
        assert_kept(jitted(params), [13, 14, 8], NAMES)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_a_bad_weight_is_kept_inside_jit(bad: float) -> None:
    params = mlp()
    params["Dense_0"]["kernel"][4, 5] = bad
    assert jax.jit(lambda tree: masks(tree, 0.9, method="MP"))(params)["Dense_0"]["kernel"][4, 5]


# ---------------------------------------------------------------- norms


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("leaf", ["scale", "var"])
def test_norms_that_are_not_finite(leaf: str, bad: float) -> None:
    norms, stats = norms_of(9)
    (norms if leaf == "scale" else stats)["BatchNorm_0"][leaf][2] = bad
    declared = ["Dense_0", "BatchNorm_0", "Dense_1", "Dense_2"]
    with refused(f"BatchNorm_0/{leaf} after layer 'Dense_0'", "1 NaN or infinite"):
        lookahead_masks(mlp() | norms, declared, 0.5, batch_stats=stats)


@pytest.mark.parametrize(
    ("least", "epsilon"), [(-1.0, 1e-5), (-1e-5, 1e-5), (-0.3, 0.3), (0.0, 0.0), (0.0, 1e-60)]
)
@pytest.mark.parametrize("call", [lookahead_masks, lookahead_scores])
def test_variances_that_have_no_inverse_root(call: Any, least: float, epsilon: float) -> None:
    norms, stats = norms_of(9)
    stats["BatchNorm_0"]["var"][4] = least
    declared = ["Dense_0", Norm("BatchNorm_0", epsilon), "Dense_1", "Dense_2"]
    arguments = (0.5,) if call is lookahead_masks else ()
    with refused("BatchNorm_0/var after layer 'Dense_0'", f"{least:g}", f"epsilon {epsilon:g}"):
        call(mlp() | norms, declared, *arguments, batch_stats=stats)


def test_a_variance_that_rounding_took_below_zero_is_what_the_norm_divides_by() -> None:
    """The network computes ``1 / sqrt(var + epsilon)``, which is a number here."""
    norms, stats = norms_of(9)
    stats["BatchNorm_0"]["var"][4] = -1e-6
    params = mlp() | norms
    found = lookahead_scores(params, ["Dense_0", "BatchNorm_0", "Dense_1"], batch_stats=stats)
    gains = [oracle.gain(norms, stats, "BatchNorm_0"), None]
    wanted = oracle.chain_eq9(oracle.layers_of(params, NAMES[:2], gain=gains))
    chex.assert_trees_all_close(found, dict(zip(NAMES, wanted, strict=False)), rtol=1e-5)


def test_statistics_that_a_jitted_function_closes_over() -> None:
    params = {"a": {"kernel": jnp.ones((3, 4))}, "n": {"scale": jnp.ones(4)}}
    stats = {"n": {"var": jnp.ones(4)}}
    pruned = jax.jit(lambda params: lookahead_masks(params, ["a", "n"], 0.5, batch_stats=stats))
    assert_kept(pruned(params), [6], "a")
    stats["n"]["var"] = jnp.array([1.0, np.nan, 1.0, 1.0])
    bad = jax.jit(lambda params: lookahead_masks(params, ["a", "n"], 0.5, batch_stats=stats))
    with refused("n/var after layer 'a' has 1 NaN"):
        bad(params)


# ---------------------------------------------------------------- measurements

SIZES = {"input": 9, "active": 8, "output": 8}


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize(("bad", "said"), [(np.nan, "1 NaN"), (np.inf, "1 NaN"), (-0.5, "-0.5")])
def test_measured_norms_with_one_bad_number(field: str, bad: float, said: str) -> None:
    values = jnp.ones(SIZES[field]).at[3].set(bad)
    measured = {"Dense_1": Measured()._replace(**{field: values})}
    with refused(f"measured {field} of layer 'Dense_1'", said):
        masks(mlp(), measured=measured)
    with refused(f"measured {field} of layer 'Dense_1'", said):
        lookahead_scores(mlp(), NAMES, measured=measured)
    closed_over = jax.jit(lambda params: masks(params, measured=measured))
    with refused(f"measured {field} of layer 'Dense_1'", said):
        closed_over(mlp())
    traced = jax.jit(lambda params, measured: masks(params, measured=measured))
    assert_kept(traced(mlp(), measured), [25, 29, 16], NAMES)


def test_measurements_of_another_network() -> None:
    with refused("no layer 'Dense_7'", "nearest"):
        masks(mlp(), measured={"Dense_7": Measured(jnp.ones(3))})
    for field, size in SIZES.items():
        other = {"Dense_1": Measured()._replace(**{field: jnp.ones(size + 1)})}
        with refused(f"measured {field} of layer 'Dense_1'", f"({size + 1},)", f"({size},)"):
            masks(mlp(), measured=other)


# ---------------------------------------------------------------- earlier masks


def test_masks_of_another_network() -> None:
    first = masks(mlp(), 0.5)
    with refused("has no parameter", "nearest"):
        masks(mlp(), 0.6, masks=first | {"Dense_3": first["Dense_2"]})
    first["Dense_1"]["kernel"] = first["Dense_1"]["kernel"].T
    with refused("masks hold bool[8, 9] at 'Dense_1/kernel'", "bool[9, 8]"):
        masks(mlp(), 0.6, masks=first)
    first["Dense_1"]["kernel"] = jnp.ones((9, 8))
    with refused("the mask at 'Dense_1/kernel' is float32", "expected booleans"):
        masks(mlp(), 0.6, masks=first)


@pytest.mark.parametrize("missing", [None, {}])
def test_where_a_mask_is_missing_nothing_was_removed(missing: Any) -> None:
    first = masks(mlp(), 0.5)
    whole = first | {"Dense_1": {"kernel": jnp.ones((9, 8), bool)}}
    found = masks(mlp(), 0.6, masks=first | {"Dense_1": missing})
    chex.assert_trees_all_equal(found, masks(mlp(), 0.6, masks=whole))


PARAMS = mlp(widths=EQUAL)

LEFT = {
    "weights": Scope(),
    "weights of a group": Scope(group=(2, 4)),
    "blocks": Scope(unit=(2, 2)),
    "channels": Scope(unit="channel", outputs=True),
    "all weights": Scope("global", "none"),
}


def left_over(units: str) -> dict[str, Any]:
    """Masks that leave the second layer next to nothing, and all of the others."""
    found: dict[str, Any] = {
        name: {"kernel": np.ones(layer["kernel"].shape, bool), "bias": np.array(True)}
        for name, layer in PARAMS.items()
    }
    found["Dense_1"]["kernel"][:, 2:] = False
    if units == "weights of a group":
        found["Dense_1"]["kernel"] = np.ones((8, 8), bool)
        found["Dense_1"]["kernel"][4:7, 5] = False  # one group of four, of which one is left
    if units == "all weights":
        found["Dense_0"]["kernel"][:, 2:] = found["Dense_2"]["kernel"][:, 2:] = False
    return found


SAID = {
    "weights": ("layer 'Dense_1'", "keeps 32 weights", "left 16"),
    "weights of a group": ("layer 'Dense_1'", "keeps 2 weights of a group", "left 1"),
    "blocks": ("layer 'Dense_1'", "keeps 8 blocks", "left 4"),
    "channels": ("layer 'Dense_1'", "keeps 4 channels", "left 2"),
    "all weights": ("all layers together", "keeps 96 weights", "left 48"),
}


@pytest.mark.parametrize("units", LEFT)
@pytest.mark.parametrize("method", ["MP", "LBP"])
def test_masks_that_left_too_little(units: str, method: str) -> None:
    with refused(*SAID[units], "raise the sparsity"):
        masks(PARAMS, 0.5, scope=LEFT[units], masks=left_over(units), method=method)


@pytest.mark.parametrize("units", LEFT)
@pytest.mark.parametrize("steps", [1, 3])
def test_masks_that_left_too_little_keep_what_they_left_under_a_trace(
    units: str, steps: int
) -> None:
    """Values cannot be seen there: less is kept, by the layer that has less, and no more."""
    start, scope = left_over(units), LEFT[units]
    pruned = jax.jit(lambda params, start: masks(
        params, 0.5, scope=scope, masks=start, method="MP", steps=steps))  # fmt: skip
    found = [np.asarray(mask) for mask in kernels(pruned(PARAMS, start), PARAMS)]
    before = kernels(start, PARAMS)
    for mask, earlier in zip(found, before, strict=True):
        assert not (mask & ~earlier).any()
    if units == "all weights":
        chex.assert_trees_all_equal(found, before)
        return
    # The others keep exactly half, and this one all that there is.
    assert [mask.sum() for mask in (found[0], found[2])] == [32, 32]
    if units == "weights of a group":
        wanted = np.full((2, 8), 2)
        wanted[1, 5] = 1
        chex.assert_trees_all_equal(found[1].reshape(2, 4, 8).sum(1), wanted)
    else:
        chex.assert_trees_all_equal(found[1], before[1])


@pytest.mark.parametrize("units", LEFT)
def test_counts_are_exact_after_masks_that_left_enough(units: str) -> None:
    """Under a trace as without one."""
    scope = LEFT[units]
    before: Any = {"Dense_0": 0.0, "*": 0.5} if scope.group else 0.25
    start = masks(PARAMS, before, scope=scope, method="MP")

    def pruned(params: Any, start: Any) -> Any:
        return masks(params, 0.5, scope=scope, masks=start, method="MP")

    found = pruned(PARAMS, start)
    chex.assert_trees_all_equal(jax.jit(pruned)(PARAMS, start), found)
    total = [mask.sum() for mask in kernels(found, PARAMS)]
    if scope.compare == "global":
        assert sum(total) == 96
    else:
        assert total == [32, 32, 32]
    for mask, earlier in zip(kernels(found, PARAMS), kernels(start, PARAMS), strict=True):
        assert not (mask & ~earlier).any()


# ---------------------------------------------------------------- scores and tensors


@pytest.mark.parametrize(("least", "said"), [(np.nan, "NaN"), (-2.0, "-2"), (-np.inf, "-inf")])
def test_scores_that_are_no_scores(least: float, said: str) -> None:
    with refused("scores of 'b'", said):
        check_lowest({"a": jnp.zeros(()), "b": jnp.float32(least)})
    check_lowest({"a": jnp.zeros(()), "b": jnp.float32(np.inf)})


def taylor(kernel: jax.Array, gradients: jax.Array) -> jax.Array:
    return jnp.abs(kernel * gradients)


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_tensors_that_are_not_finite(bad: float) -> None:
    gradients = mlp(1)
    gradients["Dense_2"]["kernel"][1, 1] = bad
    settings: dict[str, Any] = {"method": Method(taylor), "tensors": {"gradients": gradients}}
    with refused("tensor 'gradients' at 'Dense_2/kernel'", "1 NaN or infinite"):
        masks(mlp(), **settings)
    with refused("tensor 'gradients' at 'Dense_2/kernel'", "1 NaN or infinite"):
        lookahead_scores(mlp(), NAMES, **settings)
