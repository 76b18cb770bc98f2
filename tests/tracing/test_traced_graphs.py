"""What scores, edits, pictures and summaries make of graphs that are traced."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lap_jax
from lap_jax import METHODS, Edge, PruningError, trace
from tests.tracing.small import kernels, residual, w


def test_scores_on_a_residual_and_concatenating_net_are_the_formula() -> None:
    params = kernels((6, 5), (5, 7), (7, 5), (5, 4), (9, 3))

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        h = h + jax.nn.relu(h @ w(p, "b")) @ w(p, "c")
        return jnp.concatenate([h, h @ w(p, "d")], 1) @ w(p, "e")

    graph = lap_jax.trace(model, params, jnp.ones((2, 6)))
    found = lap_jax.lookahead_scores(params, graph)
    a, b, c, d, e = (np.asarray(w(params, name), np.float64) for name in "abcde")

    def into(*kernels: np.ndarray) -> np.ndarray:
        return sum((kernel**2).sum(1) for kernel in kernels)

    def out_of(*kernels: np.ndarray) -> np.ndarray:
        return sum((kernel**2).sum(0) for kernel in kernels)

    wanted = {
        "a": a**2 * into(b, d, e[:5]),
        "b": b**2 * out_of(a)[:, None] * into(c),
        "c": c**2 * out_of(b)[:, None] * into(d, e[:5]),
        "d": d**2 * out_of(a, c)[:, None] * into(e[5:]),
        "e": e**2 * np.concatenate([out_of(a, c), out_of(d)])[:, None],
    }
    for name, expected in wanted.items():
        np.testing.assert_allclose(found[name], np.sqrt(expected), rtol=2e-6)


@pytest.mark.parametrize("name", ["b", "c", "d"])
def test_scores_are_the_distortion_of_the_block_around_a_layer(name: str) -> None:
    """Against explicit Jacobians of the block; the layers before have inputs of their own."""
    params = kernels((6, 5), (5, 7), (7, 5), (5, 4), (9, 3))

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        h = h + h @ w(p, "b") @ w(p, "c")
        return jnp.concatenate([h, h @ w(p, "d")], 1) @ w(p, "e")

    def block(p: Any, inputs: dict[str, jax.Array]) -> list[jax.Array]:
        bring = {part: x @ w(p, part) for part, x in inputs.items()}
        if name == "b":
            return [bring["a"] @ w(p, "b") @ w(p, "c")]
        if name == "c":
            made = bring["b"] @ w(p, "c")
            return [made @ w(p, "d"), made @ w(p, "e")[:5]]
        return [(bring["a"] + bring["c"]) @ w(p, "d") @ w(p, "e")[5:]]

    before = {"b": "a", "c": "b", "d": "ac"}[name]
    inputs = {part: jnp.zeros((1, w(params, part).shape[0])) for part in before}
    graph = lap_jax.trace(model, params, jnp.ones((2, 6)))
    found = lap_jax.lookahead_scores(params, graph)[name]
    jacobian = jax.jit(jax.jacobian(block, argnums=1))
    whole = jax.tree.leaves(jacobian(params, inputs))
    for index in [(0, 0), (3, 2), (4, 3)]:
        without = {**params, name: {"kernel": w(params, name).at[index].set(0)}}
        parts = zip(whole, jax.tree.leaves(jacobian(without, inputs)), strict=True)
        change = jnp.sqrt(sum(((a - b) ** 2).sum() for a, b in parts))
        np.testing.assert_allclose(found[index], change, rtol=1e-5)


@pytest.mark.parametrize("horizon", [1, 2, 3, "all"])
def test_horizon_on_a_chain_is_the_path_score(horizon: Any) -> None:
    params = kernels((4, 5), (5, 6), (6, 3), (3, 7), (7, 2))
    found = lap_jax.lookahead_scores(
        params, list("abcde"), method=METHODS["LAP"]._replace(horizon=horizon)
    )
    squares = [np.asarray(w(params, name), np.float64) ** 2 for name in "abcde"]
    reach = 5 if horizon == "all" else int(horizon)
    for place, name in enumerate("abcde"):
        before = np.ones(squares[max(place - reach, 0)].shape[0])
        for square in squares[max(place - reach, 0) : place]:
            before = before @ square
        after = np.ones(squares[min(place + reach, 4)].shape[1])
        for square in squares[place + 1 : place + 1 + reach][::-1]:
            after = square @ after
        expected = np.sqrt(squares[place] * before[:, None] * after)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


def test_horizon_zero_is_magnitude_and_the_middle_of_three_sees_all() -> None:
    params = kernels((4, 5), (5, 6), (6, 3))
    horizon = lambda value: METHODS["LAP"]._replace(horizon=value)  # noqa: E731
    nothing = lap_jax.lookahead_scores(params, list("abc"), method=horizon(0))
    np.testing.assert_array_equal(nothing["b"], abs(w(params, "b")))
    one, whole = (
        lap_jax.lookahead_scores(params, list("abc"), method=horizon(h)) for h in (1, "all")
    )
    np.testing.assert_allclose(one["b"], whole["b"], rtol=1e-5)


def test_the_path_score_is_the_gradient_of_the_squared_network() -> None:
    """On a residual net: w**2 * dS/d(w**2), with S the network on squared weights and ones."""
    params = kernels((6, 5), (5, 7), (7, 5), (5, 3))

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        h = h + h @ w(p, "b") @ w(p, "c")
        return h @ w(p, "d")

    graph = lap_jax.trace(model, params, jnp.ones((2, 6)))
    found = lap_jax.lookahead_scores(params, graph, method=METHODS["LAP"]._replace(horizon="all"))
    squares = jax.tree.map(jnp.square, params)
    slope = jax.grad(lambda p: model(p, jnp.ones((1, 6))).sum())(squares)
    for name in "abcd":
        expected = jnp.sqrt(w(squares, name) * w(slope, name))
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


@pytest.mark.parametrize("horizon", [2, "all"])
def test_horizon_needs_an_end(horizon: Any) -> None:
    params = kernels((4, 4))

    def model(p: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.tanh(x @ w(p, "a")) @ w(p, "a")) @ w(p, "a")

    graph = lap_jax.trace(model, params, jnp.ones((1, 4)))
    method = METHODS["LAP"]._replace(horizon=horizon)
    if horizon == "all":
        with pytest.raises(PruningError, match="'a' feeds itself"):
            lap_jax.lookahead_scores(params, graph, method=method)
    else:
        assert np.isfinite(lap_jax.lookahead_scores(params, graph, method=method)["a"]).all()


def test_shortcuts_can_be_seen_in_three_ways() -> None:
    params, model = residual(2)
    graph = lap_jax.trace(model, params, jnp.ones((1, 5)))
    chain = ["stem", "a0", "b0", "a1", "b1", "head"]
    main = graph.main_path()
    assert main.edges == lap_jax.chain(params, chain).edges
    assert main.junctions == ()

    def norm(name: str, axis: int) -> Any:
        return np.linalg.norm(w(params, name), axis=axis)

    identity = lap_jax.lookahead_scores(params, graph.identity_shortcuts())
    wanted = abs(w(params, "a1")) * np.sqrt(norm("b0", 0) ** 2 + 1)[:, None] * norm("b1", 1)
    np.testing.assert_allclose(identity["a1"], wanted, rtol=1e-5)
    wanted = abs(w(params, "b0")) * norm("a0", 0)[:, None] * np.sqrt(norm("a1", 1) ** 2 + 1)
    np.testing.assert_allclose(identity["b0"], wanted, rtol=1e-5)


def test_edits() -> None:
    params, model = residual(1)
    graph = lap_jax.trace(model, params, jnp.ones((1, 5)))
    masks = lap_jax.lookahead_masks(params, graph.pin("head"), 0.5)
    assert bool(masks["head"]["kernel"].all())
    assert "head (pinned)" in str(graph.pin("head"))
    alone = graph.cut("stem", "a0")
    assert alone.into("a0") == ()
    assert graph.cut("stem", "a0").connect(Edge("stem", "a0")).into("a0") == graph.into("a0")
    with pytest.raises(PruningError, match="no layer 'heads' in the graph; nearest: 'head'"):
        graph.pin("heads")
    with pytest.raises(PruningError, match="no edge leads from 'stem' to 'head'"):
        graph.cut("stem", "head")
    with pytest.raises(PruningError, match="does not fit 'a0'"):
        graph.connect(Edge("stem", "a0", offset=1))
    with pytest.raises(PruningError, match="every layer is pinned"):
        graph.pin(*graph.names)


def test_a_picture(tmp_path: Path) -> None:
    params, model = residual(2)
    graph = lap_jax.trace(model, params, jnp.ones((1, 5))).pin("head")
    graph.draw(str(tmp_path / "model.svg"))
    tree = ElementTree.parse(tmp_path / "model.svg")
    titles = [node.text or "" for node in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert {title.split(":")[0] for title in titles} == set(graph.parts)
    assert [path.name for path in tmp_path.iterdir()] == ["model.svg"]


def test_a_summary_counts_dead_neurons_through_sums_and_stacks() -> None:
    params, model = residual(1)
    graph = lap_jax.trace(model, params, jnp.ones((1, 5)))
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    masks["a0"]["kernel"] = masks["a0"]["kernel"].at[2].set(False)
    assert lap_jax.summarize(masks, graph).total.dead == 0  # the head still reads channel 2
    masks["head"]["kernel"] = masks["head"]["kernel"].at[2].set(False)
    rows = {row.layer: row.dead for row in lap_jax.summarize(masks, graph).rows}
    assert rows == {"stem": 1, "a0": 0, "b0": 1, "head": 0}
    stacked = kernels((4, 4), (3, 4, 4))
    graph = lap_jax.trace(
        lambda p, x: lax.scan(lambda h, k: (h @ k, None), x @ w(p, "a"), w(p, "b"))[0],
        stacked,
        jnp.ones((1, 4)),
    )
    full = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), stacked)
    full["b"]["kernel"] = full["b"]["kernel"].at[1, 3].set(False)
    rows = {row.layer: row.dead for row in lap_jax.summarize(full, graph).rows}
    assert rows == {"a": 0, "b[0]": 1, "b[1]": 0, "b[2]": 0}


def test_lags_reach_through_sums_and_not_through_gates() -> None:
    lags = METHODS["LAP"]._replace(lags=True)
    params = kernels((3, 3, 2, 4), (3, 3, 4, 4), (3, 3, 4, 4), (3, 3, 4, 2))

    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = conv(x, w(p, "a"))
        h = h + conv(conv(h, w(p, "b")), w(p, "c"))
        return conv(h, w(p, "d"))

    graph = lap_jax.trace(model, params, jnp.ones((1, 8, 8, 2)))
    chain = lap_jax.lookahead_scores(params, list("abcd"), method=lags)
    traced = lap_jax.lookahead_scores(params, graph.main_path(), method=lags)
    jax.tree.map(np.testing.assert_array_equal, chain, traced)
    summed = lap_jax.lookahead_scores(params, graph, method=lags)
    np.testing.assert_allclose(summed["b"], chain["b"], rtol=1e-6)  # a alone before, c after
    assert (np.asarray(summed["d"]) > np.asarray(chain["d"]) * 1.01).mean() > 0.5

    gates = kernels((4, 6), (4, 6), (6, 3))
    graph = lap_jax.trace(
        lambda p, x: ((x @ w(p, "a")) * (x @ w(p, "b"))) @ w(p, "c"), gates, jnp.ones((2, 4))
    )
    with pytest.raises(PruningError, match="more than a sum of layers"):
        lap_jax.lookahead_scores(gates, graph, method=lags)


def test_what_is_returned_is_known_though_it_is_read_again() -> None:
    params = {name: jnp.ones((3, 3)) for name in "abc"}

    def model(p: Any, x: jax.Array) -> Any:
        y = jax.nn.relu(x @ p["a"])
        return y @ p["b"] + y, jax.nn.relu(y @ p["c"]) @ p["b"]

    assert trace(model, params, jnp.ones((1, 3))).output_layers == ("a", "b")


def test_query_and_key_are_no_outputs() -> None:
    params = {name: jnp.ones((4, 4)) for name in ("q", "k", "v", "o")}

    def model(p: Any, x: jax.Array) -> Any:
        weights = jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).T)
        return weights @ (x @ p["v"]) @ p["o"]

    graph = trace(model, params, jnp.ones((5, 4)))
    assert graph.output_layers == ("o",)
    assert graph.ends_at_positions("product 0")
