"""What goes with channels without leading to them: biases, and the weights of heads."""

import jax
import jax.numpy as jnp

import lap_jax


def shared(model: object, x: jax.Array, **shapes: tuple[int, ...]) -> lap_jax.Graph:
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    return lap_jax.trace(model, params, x)


def test_each_entry_of_a_bias_goes_with_the_channels_that_it_is_added_to() -> None:
    def model(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        h = jax.nn.relu((x @ p["a"]).reshape(-1, 2, 3) + p["each"][None])
        h = h - p["row"]
        return (h + p["positions"][:1, :, None]).reshape(-1, 6) @ p["b"]

    graph = shared(model, jnp.ones((4, 5)), a=(5, 6), b=(6, 2), each=(2, 3), row=(3,),
                   positions=(4, 2))  # fmt: skip
    found = {each.source: each.pairs.values.tolist() for each in graph.shared}
    assert {each.target for each in graph.shared} == {"a"}
    assert found["each"] == [[i, i] for i in range(6)]
    assert found["row"] == [[i % 3, i] for i in range(6)]
    # an entry of a table stands for its column, in all rows
    assert sorted(map(tuple, found["positions"])) == sorted(
        (row * 2 + i // 3, i) for row in range(4) for i in range(6)
    )
    assert graph.loose == ()


def test_what_is_put_beside_channels_or_computed_is_loose() -> None:
    def model(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        h = x @ p["a"] + jnp.tanh(p["bent"])
        h = jnp.concatenate([h, jnp.broadcast_to(p["token"], h.shape)])
        return jnp.maximum(h, p["floor"]) @ p["b"]

    graph = shared(model, jnp.ones((4, 5)), a=(5, 6), b=(6, 2), bent=(6,), token=(1, 6),
                   floor=(6,))  # fmt: skip
    assert {path for path, _ in graph.loose} == {"bent", "token", "floor"}
    assert all("test_sharing.py" in line for _, line in graph.loose)


def test_heads_go_with_the_values_that_they_weigh() -> None:
    def model(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        q, k, v = ((x @ p[name]).reshape(3, 2, 2) for name in "qkv")
        weights = jnp.einsum("qhd,khd->hqk", q, k) + p["slope"][:, None, None]
        weights = jax.nn.softmax(jnp.where(jnp.tri(3) > 0, weights / 2, -1e9))
        return jnp.einsum("hqk,khd->qhd", weights, v).reshape(3, 4) @ p["o"]

    graph = shared(model, jnp.ones((3, 5)), q=(5, 4), k=(5, 4), v=(5, 4), o=(4, 2), slope=(2,))
    found = {(each.source, each.target): each.pairs.values.tolist() for each in graph.shared}
    assert found == {
        ("product 0", "product 0"): [[0, 0], [0, 1], [2, 2], [2, 3]],
        ("product 0", "v"): [[0, 0], [0, 1], [2, 2], [2, 3]],
    }
    assert [(group.kind, group.width) for group in graph.neurons.free] == [("heads", 2)]


def test_weights_that_are_lost_on_their_way_fix_queries_and_keys() -> None:
    def model(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        q, k, v = ((x @ p[name]).reshape(3, 2, 2) for name in "qkv")
        weights = jnp.sort(jnp.einsum("qhd,khd->hqk", q, k), axis=0)  # which head is which?
        return jnp.einsum("hqk,khd->qhd", weights, v).reshape(3, 4) @ p["o"]

    graph = shared(model, jnp.ones((3, 5)), q=(5, 4), k=(5, 4), v=(5, 4), o=(4, 2))
    assert "q" not in {group.name for group in graph.neurons.free}
