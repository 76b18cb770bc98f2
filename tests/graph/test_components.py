"""Groups of convolutions; rectangles of leaves with several axes."""

import jax
import jax.numpy as jnp
import numpy as np

import lap_jax
from lap_jax.graph.components import Places, gates_of_many, neurons_by_channel
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import Edge, Layer


def test_a_depthwise_convolution_passes_a_channel_on_and_a_grouped_one_keeps_groups_whole() -> None:
    layers = (Layer("a", "a", (1, 1, 2, 4)), Layer("depth", "depth", (3, 3, 1, 8), 4),
              Layer("group", "group", (3, 3, 4, 6), 2))  # fmt: skip
    graph = Graph(layers, (Edge("a", "depth"), Edge("depth", "group")))
    places = Places(graph)
    roots = neurons_by_channel(graph, places)
    assert roots[places.of(("a", "out"))].tolist() == [0, 0, 2, 2]
    assert roots[places.of(("depth", "out"))].tolist() == [0] * 4 + [2] * 4
    assert roots[places.of(("group", "out"))].tolist() == [0] * 3 + [2] * 3


def test_what_no_rectangle_is_left_without_goes_together() -> None:
    def model(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        x = jax.nn.relu(jnp.einsum("bd,dhe->bhe", x, p["a"]))  # two axes, in no head
        return jnp.einsum("bhe,hec->bc", x, p["b"])

    params = {"a": jnp.ones((5, 2, 3)), "b": jnp.ones((2, 3, 4))}
    graph = lap_jax.trace(model, params, jnp.ones((1, 5)))
    (group, _) = graph.neurons.groups
    assert (group.width, group.channels) == (2, 3)


def test_a_router_gates_many_neurons_and_a_partner_one_each() -> None:
    def model(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        gate, up = x @ p["gate"], x @ p["up"]
        each = jnp.einsum("bh,ehd->bed", gate * up, p["experts"])
        return jnp.einsum("be,bed->bd", jax.nn.softmax(x @ p["router"]), each) @ p["out"]

    shapes = {"gate": (5, 3), "up": (5, 3), "experts": (2, 3, 4), "router": (5, 2), "out": (4, 2)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    graph = lap_jax.trace(model, params, jax.ShapeDtypeStruct((1, 5), jnp.float32))
    assert gates_of_many(graph) == ["router"]
    found = {group.name: (group.width, group.writes, group.fixed) for group in graph.neurons.groups}
    assert found["gate"] == (3, ("gate", "up"), "")
    assert found["experts"] == (4, ("experts",), "")
    assert found["router"][2].startswith("each multiplies several neurons at once; ")


def test_masks_alone_do_not_take_an_expert_out_of_a_softmax() -> None:
    """Why experts stay: a logit of nought has a share, and only one of minus infinity has none."""
    rng = np.random.default_rng(0)
    x, router, experts = (rng.normal(size=shape) for shape in ((4, 5), (5, 3), (3, 5, 2)))

    def mixture(logits: np.ndarray, experts: np.ndarray) -> np.ndarray:
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return np.asarray(np.einsum("be,ebd->bd", shares, x @ experts))

    kept = np.array([True, True, False])
    without = mixture(x @ router[:, kept], experts[kept])
    silent = experts * kept[:, None, None]
    assert np.abs(mixture(x @ (router * kept), silent) - without).max() > 0.1
    infinite = np.where(kept, x @ router, -np.inf)
    np.testing.assert_allclose(mixture(infinite, silent), without)
