"""How many neurons stay, and how many parameters these have."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from lap_jax import PruningError, Scope
from lap_jax.selection.scope import checked_scope
from lap_jax.selection.widths import evened, kept_neurons, levels_of, parameters_left, rounded
from tests import zoo

NEURON = Scope(unit="neuron")
LLAMA = zoo.Llama(layers=2, width=16, heads=8, kv_heads=4, hidden=24, vocabulary=11)
X = jax.ShapeDtypeStruct((1, 5), jnp.int32)


@pytest.fixture(scope="module")
def llama() -> tuple[Any, lap_jax.Graph]:
    x = jnp.zeros((1, 5), jnp.int32)
    variables = jax.eval_shape(lambda: LLAMA.init(jax.random.key(0), x))
    return variables, lap_jax.trace(LLAMA, variables, X)


def test_a_mapping_names_groups_layers_or_kinds(llama: tuple[Any, lap_jax.Graph]) -> None:
    _, graph = llama
    neurons = graph.neurons
    names = [group.name for group in neurons.free]
    assert names == ["tokens", "layers_0/q", "layers_0/gate", "layers_1/q", "layers_1/gate"]
    assert levels_of(neurons, 0.5) == (0.5,) * 5
    assert levels_of(neurons, {"heads": 0.25, "*": 0.5}) == (0.5, 0.25, 0.5, 0.25, 0.5)
    # any of the layers that write a group names it; a name goes before a pattern
    levels = {"*/up": 0.5, "layers_1/v": 0.25, "*": 0.0}
    assert levels_of(neurons, levels) == (0.0, 0.0, 0.5, 0.25, 0.5)
    assert levels_of(neurons, {"*_0/*": 0.5, "heads": 0.25, "*": 0}) == (0.5, 0.5, 0.5, 0.25, 0)
    with pytest.raises(PruningError, match=r"^sparsity: no layer 'layers_9/q'"):
        levels_of(neurons, {"layers_9/q": 0.5, "*": 0.0})
    dense = lap_jax.chain({name: {"kernel": jnp.ones((2, 2))} for name in "ab"}, ["a", "b"])
    with pytest.raises(PruningError, match=r"there are no heads in the graph, but neurons$"):
        levels_of(dense.neurons, {"heads": 0.5, "*": 0.0})
    with pytest.raises(PruningError, match=r"'head' cannot be pruned.*the network returns it$"):
        levels_of(neurons, {"head": 0.5, "*": 0.0})
    with pytest.raises(PruningError, match=r"'layers_1/q' is given no sparsity"):
        levels_of(neurons, {"tokens": 0.5, "*_0/*": 0.5})
    with pytest.raises(PruningError, match=r"^no neurons can be removed: 'tokens': 'tokens' is pi"):
        levels_of(graph.pin("tokens", "*/q", "*/up").neurons, 0.5)


def test_numbers_are_rounded_up_to_multiples_of_channels(llama: tuple[Any, lap_jax.Graph]) -> None:
    neurons = llama[1].neurons
    stream, heads, hidden, *_ = neurons.free
    assert (heads.width, heads.channels) == (4, 4)  # of a head two queries of two channels
    eight = Scope(unit="neuron", multiple_of=8)
    for group in (stream, heads, hidden):
        for count in range(group.width + 1):
            found = rounded(eight, group, count)
            least = next(n for n in range(max(count, 1), group.width + 1)
                         if n * group.channels % 8 == 0)  # fmt: skip
            assert found == least == int(rounded(eight, group, jnp.int32(count)))
    assert rounded(Scope(unit="neuron", multiple_of=7), stream, 15) == 16  # no more than there are
    assert rounded(Scope(unit="neuron", at_least=3), heads, 1) == 3
    assert kept_neurons(eight, neurons, (0.4,) * 5) == [16, 2, 16, 2, 16]
    assert kept_neurons(NEURON, neurons, (0.5,) * 5, 0.5) == [12, 3, 18, 3, 18]


def test_a_stack_of_layers_can_be_given_one_width(llama: tuple[Any, lap_jax.Graph]) -> None:
    neurons = llama[1].neurons
    uniform = Scope("global", unit="neuron", uniform=True)
    counts = [jnp.int32(count) for count in (9, 1, 7, 4, 20)]
    assert [int(count) for count in evened(uniform, neurons, counts)] == [9, 3, 14, 3, 14]
    layer = Scope(unit="neuron", uniform=True)
    with pytest.raises(PruningError, match=r"^scope: uniform asks for one w.*'layers_1/q': 0\)"):
        kept_neurons(layer, neurons, (0.5, 0.5, 0.5, 0, 0.5))
    pinned = llama[1].pin("layers_1/up").neurons
    with pytest.raises(PruningError, match=r"'layers_1/gate': 'layers_1/up' is pinned"):
        kept_neurons(layer, pinned, (0.5,) * 3)
    with pytest.raises(PruningError, match=r"^global scope compares all neurons"):
        kept_neurons(uniform, neurons, (0.5, 0, 0, 0, 0))


def by_hand(width: int, heads: int, hidden: int) -> int:
    """Parameters of the decoder with so many of the stream, heads of four channels, and hidden."""
    attention = width * heads * 4 + 2 * width * heads * 2 + heads * 4 * width
    return 2 * 11 * width + width + 2 * (attention + 3 * width * hidden + 2 * width)


def test_parameters_are_what_a_hand_counts(llama: tuple[Any, lap_jax.Graph]) -> None:
    variables, graph = llama
    shapes = {path: leaf.shape for path, leaf in lap_jax.paths.leaves_by_path(variables).items()}
    assert sum(map(math.prod, shapes.values())) == by_hand(16, 4, 24)
    rng = np.random.default_rng(0)
    for _ in range(5):
        width, heads, hidden = (int(rng.integers(1, most + 1)) for most in (16, 4, 24))
        kept = [width, heads, hidden, heads, hidden]
        assert parameters_left(graph, graph.neurons, shapes, kept) == by_hand(width, heads, hidden)


def test_a_number_of_parameters_in_place_of_a_sparsity(llama: tuple[Any, lap_jax.Graph]) -> None:
    variables, graph = llama
    sparsity = lap_jax.sparsity_within(variables, graph, 3000)
    kept = lap_jax.neuron_groups(graph, sparsity).kept
    width, heads, hidden, *_ = kept.values()
    assert by_hand(width, heads, hidden) <= 3000 < by_hand(width + 1, heads, hidden + 1)
    scope = Scope(unit="neuron", multiple_of=8)
    whole = lap_jax.sparsity_within(variables, graph, 4000, scope=scope, whole=["streams"])
    kept = lap_jax.neuron_groups(graph, whole, scope=scope).kept
    assert list(kept.values()) == [16, 4, 16, 4, 16] or by_hand(16, 2, 16) <= 4000
    assert kept["tokens"] == 16
    assert all(count % 8 == 0 for name, count in kept.items() if "gate" in name)
    assert lap_jax.sparsity_within(variables, graph, 10**6)["tokens"] == 0
    with pytest.raises(PruningError, match=r"^the network has \d+ parameters when the fewest"):
        lap_jax.sparsity_within(variables, graph, 10)
    with pytest.raises(PruningError, match=r"^scope compares all neurons"):
        lap_jax.sparsity_within(variables, graph, 10, scope=Scope("global", unit="neuron"))
    with pytest.raises(PruningError, match=r"^scope: unit is \(1, 1\), expected 'neuron'"):
        lap_jax.sparsity_within(variables, graph, 10, scope=Scope())


def test_a_number_of_multiply_adds_in_place_of_a_sparsity() -> None:
    shapes = {"first": (3, 3, 2, 8), "second": (3, 3, 8, 12), "head": (12, 3)}
    params = {
        name: {"kernel": jax.random.normal(jax.random.key(number), shape)}
        for number, (name, shape) in enumerate(shapes.items())
    }

    def model(params: Any, x: jax.Array) -> jax.Array:
        for name, stride in (("first", 1), ("second", 2)):
            x = jax.nn.relu(
                jax.lax.conv_general_dilated(
                    x, params[name]["kernel"], (stride, stride), "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            )  # fmt: skip
        return x.mean((1, 2)) @ params["head"]["kernel"]

    x = jnp.ones((2, 6, 6, 2))
    graph = lap_jax.trace(model, params, x)
    uses = lap_jax.uses(model, params, x, graph=graph)
    assert uses == {"first": 2 * 36, "second": 2 * 9, "head": 2}

    def by_hand(first: int, second: int) -> int:
        return 72 * 9 * 2 * first + 18 * 9 * first * second + 2 * second * 3

    for most in (by_hand(8, 12), by_hand(6, 9), by_hand(2, 3), by_hand(2, 3) - 1):
        levels = lap_jax.sparsity_within(params, graph, multiply_adds=most, uses=uses)
        first, second = lap_jax.neuron_groups(graph, levels).kept.values()
        assert by_hand(first, second) <= most
        masks = lap_jax.lookahead_masks(params, graph, levels, scope=NEURON)
        assert lap_jax.shrink(model, params, masks, x).work.after == by_hand(first, second)
    both = lap_jax.sparsity_within(params, graph, 300, multiply_adds=10**9, uses=uses)
    assert both == lap_jax.sparsity_within(params, graph, 300)
    with pytest.raises(
        PruningError, match=r"^the network has [\d,]+ multiply-adds when the fewest"
    ):
        lap_jax.sparsity_within(params, graph, multiply_adds=10, uses=uses)
    with pytest.raises(PruningError, match=r"^there is no budget"):
        lap_jax.sparsity_within(params, graph)
    with pytest.raises(PruningError, match=r"pass uses=lap_jax.uses\("):
        lap_jax.sparsity_within(params, graph, multiply_adds=10)


def test_the_table_says_how_many_are_kept(llama: tuple[Any, lap_jax.Graph]) -> None:
    graph = llama[1]
    text = str(lap_jax.neuron_groups(graph, {"neurons": 0.5, "*": 0.0}))
    assert "kept" in text.splitlines()[0]
    line = next(line for line in text.splitlines() if line.startswith("layers_0/gate"))
    assert line.split()[2:4] == ["24", "12"]
    assert not lap_jax.neuron_groups(graph, 0.5, scope=Scope("global", unit="neuron")).kept


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        (Scope(unit="neuron", axis=-1), "a neuron goes from all layers"),
        (Scope(unit="neuron", group=(2, 4)), "a group .n, m. goes with single weights"),
        (Scope(unit="neuron", at_least=0), "at_least is 0"),
        (Scope(unit="neuron", multiple_of=True), "multiple_of is True"),
        (Scope(unit="channel", uniform=True), "go with unit='neuron' alone"),
    ],
)
def test_options_that_say_nothing_are_refused(scope: Scope, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        checked_scope(scope)
