"""Graphs read from models: structure, channels, barriers, and what pruning makes of them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import lap_jax
from lap_jax import METHODS, Edge, PruningError


def kernels(*shapes: tuple[int, ...], seed: int = 0) -> dict[str, Any]:
    """Parameters a, b, c, ... of the given shapes."""
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {
        name: {"kernel": jax.random.normal(key, shape)}
        for name, key, shape in zip("abcdefgh", keys, shapes, strict=False)
    }


def w(params: Any, name: str) -> jax.Array:
    return params[name]["kernel"]  # type: ignore[no-any-return]


def pairs(graph: lap_jax.Graph, source: str, target: str) -> set[tuple[int, int]]:
    """Channel pairs of the edges between two parts."""
    found = set()
    for edge in graph.into(target):
        if edge.source != source:
            continue
        if edge.pairs is not None:
            found |= {(int(a), int(b)) for a, b in edge.pairs.values}
            continue
        width = graph.parts[target].in_size // edge.positions
        for position in range(edge.positions):
            for channel in range(graph.parts[source].out_size):
                found.add((channel, position * width + edge.offset + channel))
    return found


# Ways to bring four channels of a to the rows of b, and which rows channel c reaches.
MOVEMENTS = {
    "transposed": (lambda h: jnp.transpose(jnp.transpose(h)), 4, lambda c: {c}),
    "reversed": (lambda h: h[:, ::-1], 4, lambda c: {3 - c}),
    "repeated": (lambda h: jnp.repeat(h, 2, axis=1), 8, lambda c: {2 * c, 2 * c + 1}),
    "tiled": (lambda h: jnp.tile(h, (1, 2)), 8, lambda c: {c, c + 4}),
    "sliced": (lambda h: h[:, 1:3], 2, lambda c: {c - 1} if c in (1, 2) else set()),
    "every other": (lambda h: h[:, ::2], 2, lambda c: {c // 2} if c % 2 == 0 else set()),
    "padded": (lambda h: jnp.pad(h, ((0, 0), (1, 2))), 7, lambda c: {c + 1}),
    "gathered": (
        lambda h: h[:, np.array([2, 0, 2])],
        3,
        lambda c: {2: {0, 2}, 0: {1}}.get(c, set()),
    ),
    "taken": (
        lambda h: jnp.take(h, jnp.arange(3)[::-1], axis=1),
        3,
        lambda c: {2 - c} if c < 3 else set(),
    ),
    "joined": (
        lambda h: jnp.concatenate([h[:, 2:], h[:, :1]], 1),
        3,
        lambda c: {2: {0}, 3: {1}, 0: {2}}.get(c, set()),
    ),
    "shuffled": (
        lambda h: h.reshape(-1, 2, 2).swapaxes(1, 2).reshape(-1, 4),
        4,
        lambda c: {(c % 2) * 2 + c // 2},
    ),
    "rolled": (lambda h: jnp.roll(h, 1, 1), 4, lambda c: {(c + 1) % 4}),
    "split": (lambda h: jnp.split(h, 2, axis=1)[1], 2, lambda c: {c - 2} if c > 1 else set()),
    "outer": (
        lambda h: jnp.einsum("bc,p->bpc", h, jnp.ones(3)).reshape(-1, 12),
        12,
        lambda c: {c, c + 4, c + 8},
    ),
}


@pytest.mark.parametrize("name", MOVEMENTS)
def test_channels_follow_the_data(name: str) -> None:
    move, rows, expected = MOVEMENTS[name]
    params = kernels((5, 4), (rows, 2))
    graph = lap_jax.trace(
        lambda p, x: jax.nn.relu(move(jnp.tanh(x @ w(p, "a")))) @ w(p, "b"),
        params,
        jnp.ones((3, 5)),
    )
    assert pairs(graph, "a", "b") == {(c, row) for c in range(4) for row in expected(c)}
    assert graph.barriers == ()


@pytest.mark.parametrize("name", MOVEMENTS)
def test_traced_channels_are_those_that_the_jacobian_shows(name: str) -> None:
    move, rows, _ = MOVEMENTS[name]
    params = kernels((5, 4), (rows, 2))
    graph = lap_jax.trace(lambda p, x: move(x @ w(p, "a")) @ w(p, "b"), params, jnp.ones((3, 5)))
    jacobian = jax.jacobian(lambda h: move(h[None])[0])(jnp.ones(4))
    assert pairs(graph, "a", "b") == {(int(c), int(row)) for row, c in np.argwhere(jacobian)}


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
        return sum((kernel**2).sum(1) for kernel in kernels)  # type: ignore[return-value]

    def out_of(*kernels: np.ndarray) -> np.ndarray:
        return sum((kernel**2).sum(0) for kernel in kernels)  # type: ignore[return-value]

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
def test_horizon_on_a_chain_is_the_path_score(horizon: int | str) -> None:
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
def test_horizon_needs_an_end(horizon: int | str) -> None:
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


def test_gates_multiply() -> None:
    params = kernels((4, 6), (4, 6), (6, 3))

    def model(p: Any, x: jax.Array) -> jax.Array:
        return (jax.nn.silu(x @ w(p, "a")) * (x @ w(p, "b"))) @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((2, 4)))
    found = lap_jax.lookahead_scores(params, graph)
    a, b, c = (np.asarray(w(params, name)) for name in "abc")
    norm = np.linalg.norm
    np.testing.assert_allclose(found["a"], abs(a) * norm(b, axis=0) * norm(c, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["b"], abs(b) * norm(a, axis=0) * norm(c, axis=1), rtol=1e-5)
    np.testing.assert_allclose(
        found["c"], abs(c) * (norm(a, axis=0) * norm(b, axis=0))[:, None], rtol=1e-5
    )


def attention(p: Any, x: jax.Array, rotary: bool) -> jax.Array:
    """Two query heads of four channels to one head of keys and values."""
    batch, time, _ = x.shape
    q = (x @ w(p, "a")).reshape(batch, time, 2, 4)
    k, v = (jnp.repeat((x @ w(p, name))[:, :, None], 2, 2) for name in "bc")
    if rotary:
        angle = jnp.arange(time)[:, None] * jnp.array([1.0, 0.7])
        cos, sin = (part[None, :, None] for part in (jnp.cos(angle), jnp.sin(angle)))

        def turned(h: jax.Array) -> jax.Array:
            left, right = jnp.split(h, 2, -1)
            return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], -1)

        q, k = turned(q), turned(k)
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, time, 8) @ w(p, "d")


@pytest.mark.parametrize("rotary", [False, True])
def test_attention_is_its_circuits(rotary: bool) -> None:
    params = kernels((6, 8), (6, 4), (6, 4), (8, 6))
    graph = lap_jax.trace(lambda p, x: attention(p, x, rotary), params, jnp.ones((1, 500, 6)))
    assert graph.barriers == ()
    found = lap_jax.lookahead_scores(params, graph)
    q, k, v, o = (np.asarray(w(params, name), np.float64) for name in "abcd")
    keys, queries = (k**2).sum(0), (q**2).sum(0).reshape(2, 4).sum(0)
    if rotary:  # a pair of channels turns by uniform angles: each has the mean of both
        keys, queries = ((e + np.roll(e, 2)) / 2 for e in (keys, queries))
    outs = (o**2).sum(1).reshape(2, 4).sum(0)

    def ratio(found: Any, expected: np.ndarray) -> np.ndarray:
        ratios: np.ndarray = np.asarray(found, np.float64) / expected
        return ratios / ratios.mean()

    near = 0.02 if rotary else 1e-5  # angles of 500 positions are not quite uniform
    np.testing.assert_allclose(ratio(found["a"], abs(q) * np.sqrt(np.tile(keys, 2))), 1, atol=near)
    np.testing.assert_allclose(ratio(found["b"], abs(k) * np.sqrt(queries)), 1, atol=near)
    np.testing.assert_allclose(found["c"], abs(v) * np.sqrt(outs), rtol=1e-5)
    values = np.tile(np.sqrt((v**2).sum(0)), 2)
    np.testing.assert_allclose(found["d"], abs(o) * values[:, None], rtol=1e-5)


class Normed(nn.Module):
    """Norms before and behind layers."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(6, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, epsilon=1e-3)(x))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1)
        x = nn.Dense(6)(x)
        return nn.Dense(3)(nn.LayerNorm()(x + nn.Dense(6)(nn.RMSNorm()(x))))


def test_norms_scale_channels() -> None:
    x = jnp.ones((2, 4, 4, 3))
    variables = Normed().init(jax.random.key(0), x)
    graph = lap_jax.trace(Normed(), variables, x)
    assert graph["Conv_0"].factors == lap_jax.Norm("BatchNorm_0", epsilon=1e-3).factors
    assert graph["Conv_0"].pool == 2
    assert graph.into("Dense_0") == (Edge("Conv_0", "Dense_0", positions=4),)
    paths = [factor.path for junction in graph.junctions for factor in junction.factors]
    assert paths == ["RMSNorm_0/scale", "LayerNorm_0/scale"]
    assert graph.barriers == ()
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    params["RMSNorm_0"]["scale"] = jnp.array([1.0, -2.0, 0.0, 1.0, 1.0, 1.0])
    found = lap_jax.lookahead_scores(params, graph, batch_stats=variables["batch_stats"])
    dense = params["Dense_0"]["kernel"]
    expected = (
        abs(params["Dense_2"]["kernel"])
        * (jnp.linalg.norm(dense, axis=0) * abs(params["RMSNorm_0"]["scale"]))[:, None]
    )
    after = found["Dense_2"] / expected
    np.testing.assert_allclose(after[0], after[1], rtol=1e-5)
    assert not found["Dense_2"][2].any()
    without = {name: part for name, part in params.items() if name != "RMSNorm_0"}
    with pytest.raises(PruningError, match="is multiplied by 'RMSNorm_0/scale', which neither"):
        lap_jax.lookahead_scores(without, graph, batch_stats=variables["batch_stats"])


def test_batch_statistics_are_refused() -> None:
    x = jnp.ones((2, 4, 4, 3))
    variables = Normed().init(jax.random.key(0), x)
    apply = lambda v, x: Normed().apply(v, x, train=True, mutable=["batch_stats"])  # noqa: E731
    with pytest.raises(PruningError, match="'BatchNorm_0' does not use its running variance"):
        lap_jax.trace(apply, variables, x)


def test_batch_norms_that_are_not_called_are_let_be() -> None:
    x = jnp.ones((2, 4, 4, 3))
    variables = Normed().init(jax.random.key(0), x)

    def stem(variables: Any, x: jax.Array) -> jax.Array:
        return nn.Conv(6, (3, 3)).apply({"params": variables["params"]["Conv_0"]}, x)

    assert lap_jax.trace(stem, variables, x).names == ("Conv_0",)


def test_stacked_layers_are_a_layer_each() -> None:
    params = kernels((4, 4), (3, 4, 4), (4, 2))

    def loop(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        h, _ = lax.scan(jax.checkpoint(lambda h, k: (jax.nn.relu(h @ k), None)), h, w(p, "b"))
        return h @ w(p, "c")

    graph = lap_jax.trace(loop, params, jnp.ones((2, 4)))
    assert graph.names == ("a", "b[0]", "b[1]", "b[2]", "c")
    masks = lap_jax.lookahead_masks(params, graph, 0.5, method="LAP-backward-seq")
    flat = kernels((4, 4), (4, 4), (4, 4), (4, 4), (4, 2))
    for name, value in zip("abcde", [w(params, "a"), *w(params, "b"), w(params, "c")], strict=True):
        flat[name]["kernel"] = value
    plain = lap_jax.lookahead_masks(flat, list("abcde"), 0.5, method="LAP-backward-seq")
    np.testing.assert_array_equal(
        masks["b"]["kernel"], jnp.stack([plain[name]["kernel"] for name in "bcd"])
    )
    np.testing.assert_array_equal(masks["c"]["kernel"], plain["e"]["kernel"])
    again = lap_jax.lookahead_masks(params, graph, 0.75, masks=masks)
    assert not (again["b"]["kernel"] & ~masks["b"]["kernel"]).any()


def test_tied_weights_add_their_scores_in_squares() -> None:
    params = {"embed": {"embedding": kernels((7, 4))["a"]["kernel"]}} | kernels((4, 4))

    def model(p: Any, tokens: jax.Array) -> jax.Array:
        table = p["embed"]["embedding"]
        return jnp.tanh(table[tokens] @ w(p, "a")) @ table.T

    graph = lap_jax.trace(model, params, jnp.zeros((2, 3), int))
    assert graph.names == ("embed", "a", "embed (read 2)")
    assert [layer.name for layer in graph.prunable] == ["embed", "a"]
    found = lap_jax.lookahead_scores(params, graph)
    table, a = np.asarray(params["embed"]["embedding"]), np.asarray(w(params, "a"))
    first = abs(table) * np.linalg.norm(a, axis=1)
    second = abs(table) * np.linalg.norm(a, axis=0)
    masks = lap_jax.lookahead_masks(params, graph, 0.5)["embed"]["embedding"]
    kept = np.sort(np.hypot(first, second).ravel())[-14:]
    np.testing.assert_array_equal(masks, np.hypot(first, second) >= kept[0])
    assert set(found) == {"embed", "a"}
    for method in ("LAP-forward", "LAP-backward-seq"):
        ordered = lap_jax.lookahead_masks(params, graph, 0.5, method=method)
        assert int(ordered["embed"]["embedding"].sum()) == 14


def test_kernels_of_any_layout() -> None:
    """Transposed, split into heads and batched kernels give the scores of plain ones."""
    plain = kernels((6, 8), (8, 4))
    heads = {"a": {"kernel": w(plain, "a").reshape(6, 2, 4)}, "b": {"kernel": w(plain, "b").T}}

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = jnp.einsum("td,dhk->thk", x, w(p, "a")).reshape(-1, 8)
        return jnp.einsum("ti,oi->to", h, w(p, "b"))

    graph = lap_jax.trace(model, heads, jnp.ones((3, 6)))
    masks = lap_jax.lookahead_masks(heads, graph, 0.5)
    expected = lap_jax.lookahead_masks(plain, ["a", "b"], 0.5)
    np.testing.assert_array_equal(w(masks, "a").reshape(6, 8), w(expected, "a"))
    np.testing.assert_array_equal(w(masks, "b").T, w(expected, "b"))


def test_experts_are_groups() -> None:
    params = kernels((3, 4, 5), (3, 5, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = jnp.einsum("etd,edf->etf", x, w(p, "a"))
        return jnp.einsum("etf,efo->eto", h, w(p, "b")).sum(0)

    graph = lap_jax.trace(model, params, jnp.ones((3, 7, 4)))
    assert graph["a"].groups == 3
    assert pairs(graph, "a", "b") == {(i, i) for i in range(15)}
    found = lap_jax.lookahead_masks(params, graph, 0.5)
    one = np.asarray(abs(w(params, "a")) * jnp.linalg.norm(w(params, "b"), axis=2)[:, None])
    kept = np.sort(one.ravel())[-30:]
    np.testing.assert_array_equal(w(found, "a"), one >= kept[0])


BARRIERS = {
    "sort": (lambda h: jnp.sort(h, axis=1), "sort"),
    "matrix": (lambda h: h @ jnp.eye(4)[::-1] * 2, "dot_general"),
    "cumulative": (lambda h: jnp.cumsum(h, 1), "cumsum"),
    "norm of channels": (
        lambda h: jnp.broadcast_to(h.sum(1, keepdims=True), h.shape),
        "reduce_sum",
    ),
    "index from data": (lambda h: jnp.take_along_axis(h, jnp.argsort(h, axis=1), 1), "gather"),
}


@pytest.mark.parametrize("name", BARRIERS)
def test_what_cannot_be_read_is_told(name: str) -> None:
    change, primitive = BARRIERS[name]
    params = kernels((5, 4), (4, 2))
    graph = lap_jax.trace(lambda p, x: change(x @ w(p, "a")) @ w(p, "b"), params, jnp.ones((3, 5)))
    told = {barrier.primitive: barrier for barrier in graph.barriers}
    assert primitive in told, graph
    assert "test_tracing.py" in told[primitive].where
    assert any("a" in barrier.before and "b" in barrier.after for barrier in graph.barriers)
    assert graph.into("b") == ()
    assert "barrier" in str(graph)
    scores = lap_jax.lookahead_scores(params, graph)
    np.testing.assert_array_equal(scores["b"], abs(w(params, "b")))


def test_statistics_of_a_layer_itself_are_no_barrier() -> None:
    params = kernels((5, 4), (4, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "a")
        h = (h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + 1e-6)
        return jax.nn.softmax(h) @ w(p, "b")

    graph = lap_jax.trace(model, params, jnp.ones((3, 5)))
    assert graph.barriers == ()
    assert pairs(graph, "a", "b") == {(i, i) for i in range(4)}


def test_loops_over_time_are_barriers() -> None:
    params = kernels((5, 4), (4, 4), (4, 2))

    def model(p: Any, x: jax.Array) -> jax.Array:
        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(x @ w(p, "a") + h @ w(p, "b")), None

        return lax.scan(step, jnp.zeros((2, 4)), x)[0] @ w(p, "c")

    graph = lap_jax.trace(model, params, jnp.ones((7, 2, 5)))
    (barrier,) = graph.barriers
    assert barrier.primitive == "scan"
    assert set(barrier.before) == {"a", "b"}
    assert "b" in barrier.after


def test_an_nnx_module_is_one_call() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.first = nnx.Linear(4, 6, rngs=rngs)
            self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
            self.second = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.second(nnx.relu(self.norm(self.first(x))))

    model = Model()
    state = nnx.state(model)
    graph = lap_jax.trace(model, state, jnp.ones((2, 4)))
    assert graph.names == ("first", "second")
    assert graph["first"].factors == lap_jax.Norm("norm").factors
    params = nnx.state(model, nnx.Param)
    found = lap_jax.lookahead_masks(params, graph, 0.5, batch_stats=nnx.state(model, nnx.BatchStat))
    declared = lap_jax.lookahead_masks(
        params, ["first", "norm", "second"], 0.5, batch_stats=nnx.state(model, nnx.BatchStat)
    )
    jax.tree.map(np.testing.assert_array_equal, found, declared)


def test_shapes_are_enough() -> None:
    params = kernels((5, 4), (4, 2))
    model = lambda p, x: jax.nn.relu(x @ w(p, "a")) @ w(p, "b")  # noqa: E731
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    graph = lap_jax.trace(model, shapes, jax.ShapeDtypeStruct((3, 5), jnp.float32))
    assert graph == lap_jax.trace(model, params, jnp.ones((3, 5)))
    assert hash(graph) == hash(lap_jax.trace(model, params, jnp.ones((3, 5))))


def residual(blocks: int) -> tuple[dict[str, Any], Any]:
    names = [f"{part}{block}" for block in range(blocks) for part in "ab"]
    keys = jax.random.split(jax.random.key(1), len(names) + 2)
    params = {
        name: {"kernel": jax.random.normal(key, (5, 5))}
        for name, key in zip([*names, "stem", "head"], keys, strict=True)
    }

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "stem")
        for block in range(blocks):
            h = h + jax.nn.relu(h @ w(p, f"a{block}")) @ w(p, f"b{block}")
        return h @ w(p, "head")

    return params, model


def test_shortcuts_can_be_seen_in_three_ways() -> None:
    params, model = residual(2)
    graph = lap_jax.trace(model, params, jnp.ones((1, 5)))
    chain = ["stem", "a0", "b0", "a1", "b1", "head"]
    main = graph.main_path()
    assert main.edges == lap_jax.chain(params, chain).edges
    assert main.junctions == ()
    norm = lambda name, axis: np.linalg.norm(w(params, name), axis=axis)  # noqa: E731
    identity = lap_jax.lookahead_scores(params, graph.identity_shortcuts())
    wanted = abs(w(params, "a1")) * np.sqrt(norm("b0", 0) ** 2 + 1)[:, None] * norm("b1", 1)
    np.testing.assert_allclose(identity["a1"], wanted, rtol=1e-5)
    wanted = abs(w(params, "b0")) * norm("a0", 0)[:, None] * np.sqrt(norm("a1", 1) ** 2 + 1)
    np.testing.assert_allclose(identity["b0"], wanted, rtol=1e-5)


def test_the_graph_grows_with_the_blocks_not_their_square() -> None:
    sizes = []
    for blocks in (4, 8, 16):
        params, model = residual(blocks)
        sizes.append(len(lap_jax.trace(model, params, jnp.ones((1, 5))).edges))
    assert sizes[2] - sizes[1] == 2 * (sizes[1] - sizes[0])


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


def test_no_kernel_is_an_error() -> None:
    with pytest.raises(PruningError, match="reads no kernel"):
        lap_jax.trace(lambda p, x: x + p["bias"], {"bias": jnp.ones(3)}, jnp.ones(3))


def test_measured_norms() -> None:
    params, model = residual(2)
    x = jax.random.normal(jax.random.key(3), (50, 5))
    graph = lap_jax.trace(model, params, x)
    measured = lap_jax.measure(model, params, x, graph=graph)
    stem = np.asarray(x @ w(params, "stem"))
    np.testing.assert_allclose(measured["stem"].input, np.sqrt((x**2).mean(0)), rtol=1e-5)
    np.testing.assert_allclose(measured["a0"].input, np.sqrt((stem**2).mean(0)), rtol=1e-5)
    hidden = np.maximum(stem @ np.asarray(w(params, "a0")), 0)
    np.testing.assert_allclose(measured["b0"].input, np.sqrt((hidden**2).mean(0)), rtol=1e-5)
    np.testing.assert_allclose(measured["a0"].active, (hidden > 0).mean(0), rtol=1e-5)
    wanda = {name: each._replace(active=None, output=None) for name, each in measured.items()}
    scores = lap_jax.lookahead_scores(params, graph, method="LBP", measured=wanda)
    np.testing.assert_allclose(
        scores["b0"], abs(w(params, "b0")) * np.sqrt((hidden**2).mean(0))[:, None], rtol=1e-5
    )
    only = {name: each._replace(input=None, output=None) for name, each in measured.items()}
    scores = lap_jax.lookahead_scores(params, graph, measured=only)
    share = np.sqrt((hidden > 0).mean(0))
    expected = (
        abs(w(params, "a0")) * np.linalg.norm(w(params, "stem"), axis=0)[:, None]
        * share * np.linalg.norm(w(params, "b0"), axis=1)
    )  # fmt: skip
    np.testing.assert_allclose(scores["a0"], expected, rtol=1e-5)
    wrong = {"a0": measured["a0"]._replace(input=jnp.ones(3))}
    with pytest.raises(PruningError, match="measured input of layer 'a0' has shape"):
        lap_jax.lookahead_masks(params, graph, 0.5, measured=wrong)
    with pytest.raises(PruningError, match="no layer 'zz'"):
        lap_jax.lookahead_masks(params, graph, 0.5, measured={"zz": measured["a0"]})


@pytest.mark.parametrize("blocks", [1, 4])
def test_measured_scores_are_the_distortion_of_the_whole_network(blocks: int) -> None:
    """Of a linear residual net, against explicit Jacobians: rank correlation and top tenth."""
    size, key = 24, jax.random.key(5)
    names = ["stem", *(f"{part}{block}" for block in range(blocks) for part in "ab"), "head"]
    params = {
        name: {"kernel": jax.random.t(each, 2.0, (size, size)) / size**0.5}
        for name, each in zip(names, jax.random.split(key, len(names)), strict=True)
    }
    for name in names[1:-1]:
        params[name]["kernel"] *= 0.3

    def model(p: Any, x: jax.Array) -> jax.Array:
        h = x @ w(p, "stem")
        for block in range(blocks):
            h = h + h @ w(p, f"a{block}") @ w(p, f"b{block}")
        return h @ w(p, "head")

    x = jax.random.normal(jax.random.key(6), (1000, size))
    graph = lap_jax.trace(model, params, x)
    measured = lap_jax.measure(model, params, x, graph=graph)
    ways: dict[str, dict[str, jax.Array]] = {
        "MP": lap_jax.lookahead_scores(params, graph, method="MP"),
        "chain": lap_jax.lookahead_scores(params, graph.main_path()),
        "identity": lap_jax.lookahead_scores(params, graph.identity_shortcuts()),
        "graph": lap_jax.lookahead_scores(params, graph),
        "all": lap_jax.lookahead_scores(
            params, graph, method=METHODS["LAP"]._replace(horizon="all")
        ),
        "measured": lap_jax.lookahead_scores(params, graph, measured=measured),
    }
    jacobian = jax.jacobian(lambda p: model(p, jnp.eye(size)))(params)
    agreement = {}
    for way, scores in ways.items():
        found = []
        for name in names:
            slope = jnp.sqrt((w(jacobian, name) ** 2).sum((0, 1)))
            true = np.asarray(abs(w(params, name)) * slope).ravel()
            ranks = [np.argsort(np.argsort(each)) for each in (true, np.ravel(scores[name]))]
            found.append(np.corrcoef(*ranks)[0, 1])
        agreement[way] = float(np.mean(found))
    assert agreement["measured"] > 0.99
    assert agreement["all"] > 0.95
    best = max(agreement[way] for way in ("MP", "chain", "identity", "graph"))
    assert agreement["measured"] > agreement["all"] > best
