"""The graphs that are read from well-known networks, beside what is known of the networks.

Expectations are written by hand or found by differentiation; neither knows of junctions. A layer is
called by its path, ``layers/q[3]`` by its place in a stack, and ``tokens*`` when it is read again.
"""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lap_jax
from experiments.networks import PAPER_MODELS as MODELS
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import IDENTITY, Edge, Layer, Norm
from lap_jax.paths import leaves_by_path
from tests import zoo

KEY = jax.random.key(0, impl="rbg")
IMAGE = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((1, 5), jnp.int32)

Previous = dict[str, set[str]]
Matrix = np.ndarray[Any, np.dtype[np.bool_]]

# ---------------------------------------------------------------- reading a graph


def label(node: Layer) -> str:
    path = node.path.removesuffix("/kernel").removesuffix("/embedding")
    return path + "".join(f"[{index}]" for index in node.place) + "*" * bool(node.tied_to)


def node_of(graph: Graph, wanted: str) -> Layer:
    (node,) = (node for node in graph.layers if label(node) == wanted)
    return node


def neighbours(graph: Graph) -> tuple[Previous, Previous]:
    """The layers after and before each layer, `IDENTITY` among them, whatever lies between."""
    labels = {node.name: label(node) for node in graph.layers}
    assert len(set(labels.values())) == len(labels)
    targets = defaultdict(list)
    for edge in graph.edges:
        targets[edge.source].append(edge.target)
    junctions = {junction.name for junction in graph.junctions}

    @functools.cache
    def ahead(name: str) -> frozenset[str]:
        sets = (
            ahead(target) if target in junctions else {labels.get(target, target)}
            for target in targets[name]
        )
        return frozenset().union(*sets)

    after: Previous = {labels[node.name]: set(ahead(node.name)) for node in graph.layers}
    before: Previous = {name: set() for name in after}
    for source, found in [*after.items(), (IDENTITY, ahead(IDENTITY))]:
        for target in found - {IDENTITY}:
            before[target].add(source)
    return after, before


def step(edge: Edge, rows: int, columns: int) -> Matrix:
    found = np.zeros((rows, columns), bool)
    if edge.pairs is not None:
        found[tuple(edge.pairs.values.T)] = True
    else:
        width, channels = columns // edge.positions, np.arange(rows)
        for position in range(edge.positions):
            found[channels, position * width + edge.offset + channels] = True
    return found


def reach(graph: Graph, source: str, target: str) -> Matrix:
    """Which output channel of a layer reaches which input of a layer or junction."""
    names = {label(node): node.name for node in graph.layers}
    end = names.get(target, target)
    junctions = {junction.name for junction in graph.junctions}

    @functools.cache
    def onward(name: str) -> Matrix:
        rows = graph.parts[name].out_size
        found = np.zeros((rows, graph.parts[end].in_size), bool)
        for edge in graph.out_of(name):
            if edge.target == end:
                found |= step(edge, rows, graph.parts[end].in_size)
            elif edge.target in junctions:
                found |= step(edge, rows, graph.parts[edge.target].in_size) @ onward(edge.target)
        return found

    return onward(names[source])


def meeting(graph: Graph, one: str, two: str) -> str:
    """The only product in which two layers meet."""
    products = [junction.name for junction in graph.junctions if junction.kind == "product"]
    (name,) = (
        name for name in products if reach(graph, one, name).any() and reach(graph, two, name).any()
    )
    return name


def factors(graph: Graph) -> set[str]:
    return {factor.path for junction in graph.junctions for factor in junction.factors}


def norms(graph: Graph) -> dict[str, str]:
    return {label(node): node.norm for node in graph.layers if node.norm}


def inverse(previous: Previous) -> Previous:
    """Who reads each layer. What queries and keys give goes on as weights of positions: as one."""
    meet = re.compile(r"/(q|k|qkv|query|key)(\[\d+\])?$")
    return {
        name: {other for other in previous if name in previous[other]}
        | ({IDENTITY} if meet.search(name) else set())
        for name in previous
    }


def check(graph: Graph, previous: Previous) -> None:
    """Layers in order of execution, and the neighbours of each."""
    assert [label(node) for node in graph.layers] == list(previous)
    after, before = neighbours(graph)
    assert before == previous
    assert after == inverse(previous)


def placed(source: int, target: int, offset: int = 0) -> Matrix:
    """Channel c at input ``offset + c``."""
    return np.eye(source, target, offset, dtype=bool)


# ---------------------------------------------------------------- what is known of the networks


def in_a_row(*names: str) -> Previous:
    return {name: {before} - {""} for before, name in zip(("", *names), names, strict=False)}


def resnet(depths: Iterable[int]) -> Previous:
    previous, stream, block = in_a_row("Conv_0"), {"Conv_0"}, 0
    for depth in depths:
        for first in [True] + [False] * (depth - 1):
            one, two, three, shortcut = (
                f"Bottleneck_{block}/{name}" for name in ("Conv_0", "Conv_1", "Conv_2", "shortcut")
            )
            previous |= {one: stream, two: {one}, three: {two}}
            if first:
                previous[shortcut] = stream
            stream = {three, shortcut} if first else stream | {three}
            block += 1
    return previous | {"Dense_0": stream}


def wide_resnet(depth: int, widths: Sequence[int]) -> Previous:
    previous, stream, block = in_a_row("Conv_0"), {"Conv_0"}, 0
    for before, width in pairwise(widths):
        for first in [before != width] + [False] * (depth - 1):
            one, two, shortcut = (
                f"PreActivation_{block}/{name}" for name in ("Conv_0", "Conv_1", "shortcut")
            )
            if first:
                previous[shortcut] = stream
            previous |= {one: stream, two: {one}}
            stream = {two, shortcut} if first else stream | {two}
            block += 1
    return previous | {"Dense_0": stream}


def mobilenet(rows: Iterable[tuple[int, int, int, int]], stem: int) -> Previous:
    previous, stream, width_in, block = in_a_row("Conv_0"), {"Conv_0"}, stem, 0
    for expansion, width, blocks, first_stride in rows:
        for stride in [first_stride] + [1] * (blocks - 1):
            expand, depthwise, project = (
                f"InvertedResidual_{block}/{name}" for name in ("expand", "depthwise", "project")
            )
            if expansion > 1:
                previous |= {expand: stream, depthwise: {expand}}
            else:
                previous |= {depthwise: stream}
            previous |= {project: {depthwise}}
            stream = stream | {project} if stride == 1 and width == width_in else {project}
            width_in, block = width, block + 1
    return previous | {"Conv_1": stream, "Dense_0": {"Conv_1"}}


def densenet(depths: Iterable[int]) -> Previous:
    previous, stream, block = in_a_row("Conv_0"), {"Conv_0"}, 0
    for stage, depth in enumerate(depths):
        if stage:
            name = f"Transition_{stage - 1}/Conv_0"
            previous, stream = previous | {name: stream}, {name}
        for _ in range(depth):
            one, two = (f"DenseLayer_{block}/Conv_{i}" for i in range(2))
            previous |= {one: stream, two: {one}}
            stream, block = stream | {two}, block + 1
    return previous | {"Dense_0": stream}


def unet(levels: int, raised: bool) -> Previous:
    previous = in_a_row(*(f"down{level}{part}" for level in range(levels) for part in "ab"))
    last = f"down{levels - 1}b"
    for level in reversed(range(levels - 1)):
        if raised:
            previous[f"raise{level}"] = {last}
            last = f"raise{level}"
        previous |= {f"up{level}a": {f"down{level}b", last}, f"up{level}b": {f"up{level}a"}}
        last = f"up{level}b"
    return previous | {"head": {last}}


def attention(block: str, names: Iterable[str], stream: set[str]) -> Previous:
    q, k, v, out = (f"{block}/{name}" for name in names)
    return {q: stream, k: stream, v: stream, out: {v}}


VIT_ATTENTION = [f"attention/{name}" for name in ("query", "key", "value", "out")]


def vit(layers: int) -> Previous:
    previous, stream = in_a_row("patches"), {"patches"}
    for block in (f"layers_{i}" for i in range(layers)):
        previous |= attention(block, VIT_ATTENTION, stream)
        stream = stream | {f"{block}/attention/out"}
        previous |= {f"{block}/up": stream, f"{block}/down": {f"{block}/up"}}
        stream = stream | {f"{block}/down"}
    return previous | {"head": stream}


def gpt2(layers: int) -> Previous:
    """Positions that are known before are a bias, as in `vit`."""
    previous, stream = in_a_row("tokens"), {"tokens"}
    for block in (f"layers_{i}" for i in range(layers)):
        previous |= {f"{block}/qkv": stream, f"{block}/out": {f"{block}/qkv"}}
        stream = stream | {f"{block}/out"}
        previous |= {f"{block}/up": stream, f"{block}/down": {f"{block}/up"}}
        stream = stream | {f"{block}/down"}
    return previous | {"tokens*": stream}


def llama(layers: int) -> Previous:
    previous, stream = in_a_row("tokens"), {"tokens"}
    for block in (f"layers_{i}" for i in range(layers)):
        previous |= attention(block, "qkvo", stream)
        stream = stream | {f"{block}/o"}
        gate, up, down = (f"{block}/{name}" for name in ("gate", "up", "down"))
        previous |= {gate: stream, up: stream, down: {gate, up}}
        stream = stream | {down}
    return previous | {"head": stream}


def renamed(previous: Previous, rename: Callable[[str], str]) -> Previous:
    return {rename(name): set(map(rename, sources)) for name, sources in previous.items()}


def stacked(name: str) -> str:
    """``layers_3/q`` is ``layers/q[3]`` where layers are scanned."""
    block, _, rest = name.partition("/")
    return f"layers/{rest}[{block.removeprefix('layers_')}]" if rest else name


# ---------------------------------------------------------------- tracing

ROWS = ((1, 4, 1, 1), (3, 6, 2, 2), (2, 6, 1, 1), (2, 8, 1, 1))
VIT: dict[str, Any] = dict(layers=2, width=8, heads=2, hidden=12, patch=8, classes=5)
DECODER: dict[str, Any] = dict(layers=3, width=16, heads=4, kv_heads=2, hidden=12, vocabulary=11)
LINEN: dict[str, tuple[nn.Module, jax.ShapeDtypeStruct, Previous]] = {
    "mlp": (zoo.MLP((8, 6, 4)), IMAGE, in_a_row("Dense_0", "Dense_1", "Dense_2")),
    "conv": (zoo.ConvNet((4, 6), 5, 3), IMAGE, in_a_row("Conv_0", "Conv_1", "Dense_0", "Dense_1")),
    "resnet": (zoo.ResNet((2, 3), 4, 5), IMAGE, resnet((2, 3))),
    "wide resnet": (zoo.WideResNet(2, (4, 6, 8), 5), IMAGE, wide_resnet(2, (4, 6, 8))),
    "wide resnet, one width": (zoo.WideResNet(2, (6, 6), 5), IMAGE, wide_resnet(2, (6, 6))),
    "mobilenet": (zoo.MobileNetV2(ROWS, 4, 10, 5), IMAGE, mobilenet(ROWS, 4)),
    "densenet": (zoo.DenseNet((2, 3), 2, 5), IMAGE, densenet((2, 3))),
    "unet": (zoo.UNet((4, 6, 8)), IMAGE, unet(3, True)),
    "unet, nearest": (zoo.UNet((4, 6, 8), resize="nearest"), IMAGE, unet(3, False)),
    "unet, linear": (zoo.UNet((4, 6, 8), resize="linear"), IMAGE, unet(3, False)),
    "vit": (zoo.ViT(**VIT, token=False), IMAGE, vit(2)),
    "vit, token": (zoo.ViT(**VIT), IMAGE, vit(2)),
    "gpt2": (zoo.GPT2(2, 8, 2, 11, 7), TOKENS, gpt2(2)),
    "llama": (zoo.Llama(**DECODER), TOKENS, llama(3)),
    "llama, groups": (zoo.Llama(**DECODER, repeat=False), TOKENS, llama(3)),
    "llama, remat": (zoo.Llama(**DECODER, remat=True), TOKENS, llama(3)),
    "llama, scan": (zoo.Llama(**DECODER, scan=True), TOKENS, renamed(llama(3), stacked)),
    "llama, scan, remat, groups": (
        zoo.Llama(**DECODER, scan=True, remat=True, repeat=False),
        TOKENS,
        renamed(llama(3), stacked),
    ),
}


def slashed(name: str) -> str:
    """Name a layer as NNX does: ``layers/0/q``."""
    return name.replace("layers_", "layers/")


def nnx_resnet(depth: int, stages: int) -> Previous:
    previous, stream = in_a_row("conv"), {"conv"}
    for block in range(depth * stages):
        one, two, shortcut = (f"blocks/{block}/{name}" for name in ("conv1", "conv2", "shortcut"))
        previous |= {one: stream, two: {one}}
        if block and block % depth == 0:
            previous[shortcut] = stream
            stream = {two, shortcut}
        else:
            stream = stream | {two}
    return previous | {"head": stream}


NNX: dict[str, tuple[Callable[..., nnx.Module], jax.ShapeDtypeStruct, Previous]] = {
    "mlp": (
        functools.partial(zoo.NnxMLP, (16 * 16 * 3, 8, 6, 4)),
        IMAGE,
        in_a_row("layers/0", "layers/1", "layers/2"),
    ),
    "resnet": (functools.partial(zoo.NnxResNet, 2, (4, 6), 5), IMAGE, nnx_resnet(2, 2)),
    "vit": (
        functools.partial(zoo.NnxViT, **VIT, tokens=4),
        IMAGE,
        renamed(vit(2), slashed),
    ),
    "llama": (functools.partial(zoo.NnxLlama, **DECODER), TOKENS, renamed(llama(3), slashed)),
}


def shapes(module: nn.Module, *inputs: Any) -> Any:
    return jax.eval_shape(module.init, KEY, *inputs)


def drawn(tree: Any) -> Any:
    """Arrays in place of shapes, positive where they are variances."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> jax.Array:
        if "var" in jax.tree_util.keystr(path):
            return jnp.asarray(rng.uniform(0.1, 2, leaf.shape), leaf.dtype)
        return jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, tree)


def traced(module: nn.Module, *inputs: Any, **static: Any) -> Graph:
    return lap_jax.trace(module.apply, shapes(module, *inputs), *inputs, **static)


@functools.cache
def linen(case: str) -> Graph:
    module, inputs, _ = LINEN[case]
    return traced(module, inputs)


@functools.cache
def nnx_graph(case: str) -> Graph:
    build, inputs, _ = NNX[case]
    definition, state = nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
    return lap_jax.trace(lambda state, x: nnx.merge(definition, state)(x), state, inputs)


@pytest.mark.parametrize("case", LINEN)
def test_neighbours_of_linen_networks(case: str) -> None:
    check(linen(case), LINEN[case][2])


@pytest.mark.parametrize("case", NNX)
def test_neighbours_of_nnx_networks(case: str) -> None:
    check(nnx_graph(case), NNX[case][2])


@pytest.mark.parametrize("case", [*LINEN, *(f"{name} (nnx)" for name in NNX)])
def test_nothing_stops_lookahead(case: str) -> None:
    graph = nnx_graph(case[:-6]) if case.endswith(" (nnx)") else linen(case)
    assert graph.barriers == ()


def kernels_in(tree: Any) -> set[str]:
    """Paths of the floating-point leaves of two axes or more."""
    return {
        path
        for path, leaf in leaves_by_path(tree).items()
        if len(leaf.shape) > 1 and jnp.issubdtype(leaf.dtype, jnp.floating)
    }


def all_told(graph: Graph, tree: Any) -> None:
    """Each leaf is a layer or has a reason."""
    held, unread = {layer.path for layer in graph.layers}, {each.path for each in graph.unread}
    assert held | unread == kernels_in(tree)
    assert not held & unread
    assert len(unread) == len(graph.unread)
    assert all(each.why for each in graph.unread)


@pytest.mark.parametrize("case", LINEN)
def test_nothing_of_a_linen_network_is_lost_in_silence(case: str) -> None:
    module, inputs, _ = LINEN[case]
    all_told(linen(case), shapes(module, inputs))


@pytest.mark.parametrize("case", NNX)
def test_nothing_of_an_nnx_network_is_lost_in_silence(case: str) -> None:
    build, _, _ = NNX[case]
    state = nnx.state(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
    all_told(nnx_graph(case), state)


def test_biases_and_tables_by_position_are_told_apart() -> None:
    for case, tables in {"vit, token": {"positions"}, "gpt2": {"positions/embedding"}}.items():
        found = {each.path for each in linen(case).unread if each.is_weight}
        assert found == tables
    others = {each.path for each in linen("vit, token").unread if not each.is_weight}
    assert {"token", "layers_0/attention/query/bias"} <= others
    stacks = linen("llama, scan").unread
    assert {each.path for each in stacks} == scales("layers/before_attention", "layers/before_mlp")
    assert not any(each.is_weight for each in stacks)


@pytest.mark.parametrize(
    ("module", "inputs", "parameters"),
    [
        (zoo.ResNet(), (1, 224, 224, 3), 25_557_032),
        (zoo.WideResNet(), (1, 32, 32, 3), 36_479_194),
        (zoo.MobileNetV2(), (1, 224, 224, 3), 3_504_872),
        (zoo.DenseNet(), (1, 224, 224, 3), 7_978_856),
        (zoo.UNet(), (1, 64, 64, 1), 31_030_658),
        (zoo.ViT(), (1, 224, 224, 3), 86_567_656),
        (zoo.GPT2(), (1, 8), 124_439_808),
        (zoo.Llama(scan=True), (1, 8), 70_553_706_496),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_the_zoo_has_the_published_sizes(
    module: nn.Module, inputs: tuple[int, ...], parameters: int
) -> None:
    dtype = jnp.float32 if len(inputs) == 4 else jnp.int32
    variables = shapes(module, jax.ShapeDtypeStruct(inputs, dtype))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == parameters


def test_arrays_shapes_and_jit_give_the_same_graph() -> None:
    module, inputs, _ = LINEN["resnet"]
    x, variables = jnp.zeros(inputs.shape), drawn(shapes(module, inputs))
    graph = linen("resnet")
    assert lap_jax.trace(module.apply, variables, x) == graph
    assert lap_jax.trace(jax.jit(module.apply), variables, x) == graph
    assert traced(module, inputs, train=False) == graph
    assert hash(traced(module, inputs)) == hash(graph)


# ---------------------------------------------------------------- channels


def same(found: Matrix, wanted: Matrix) -> None:
    np.testing.assert_array_equal(found, wanted)


def test_a_flatten_puts_channel_c_in_every_row_r_with_r_mod_width_c() -> None:
    graph = linen("conv")
    channels, rows = np.arange(6), np.arange(4 * 4 * 6)
    same(reach(graph, "Conv_1", "Dense_0"), rows % 6 == channels[:, None])


def test_residual_writers_and_readers_share_channels() -> None:
    graph = linen("resnet")
    for name, sources in resnet((2, 3)).items():
        for source in sources:
            size = node_of(graph, name).in_size
            same(reach(graph, source, name), placed(size, size))


def test_depthwise_convolutions_have_a_group_per_channel() -> None:
    graph = linen("mobilenet")
    for block, hidden in enumerate((4, 12, 18, 12, 12)):
        depthwise = node_of(graph, f"InvertedResidual_{block}/depthwise")
        assert (depthwise.groups, depthwise.in_size, depthwise.out_size) == (hidden,) * 3
        assert depthwise.shape == (3, 3, 1, hidden)
        same(
            reach(graph, label(depthwise), f"InvertedResidual_{block}/project"),
            placed(hidden, hidden),
        )
        if block:
            same(
                reach(graph, f"InvertedResidual_{block}/expand", label(depthwise)),
                placed(hidden, hidden),
            )


def test_densely_connected_layers_follow_each_other() -> None:
    graph = linen("densenet")
    # A stem of 4 channels and two layers of 2; then 4 of the transition and three layers of 2.
    stages = [("Conv_0", range(2)), ("Transition_0/Conv_0", range(2, 5))]
    ends = ["Transition_0/Conv_0", "Dense_0"]
    for (first, blocks), end in zip(stages, ends, strict=True):
        writers, offset = [(first, 0, 4)], 4
        for reader in [*(f"DenseLayer_{block}/Conv_0" for block in blocks), end]:
            for writer, start, width in writers:
                same(reach(graph, writer, reader), placed(width, offset, start))
            writers.append((reader.replace("Conv_0", "Conv_1"), offset, 2))
            offset += 2


@pytest.mark.parametrize("case", ["unet", "unet, nearest", "unet, linear"])
def test_skips_come_before_what_comes_from_below(case: str) -> None:
    graph, widths = linen(case), (4, 6, 8)
    for level, below in ((1, "down2b"), (0, "up1b")):
        width = widths[level]
        raised = width if case == "unet" else widths[level + 1]
        source = f"raise{level}" if case == "unet" else below
        target = f"up{level}a"
        same(reach(graph, f"down{level}b", target), placed(width, width + raised))
        same(reach(graph, source, target), placed(raised, width + raised, width))
        if case == "unet":
            same(reach(graph, below, source), placed(widths[level + 1], widths[level + 1]))


def test_heads_split_and_merge() -> None:
    graph = linen("vit")
    for i in range(2):
        q, k, v, out = (f"layers_{i}/{name}" for name in VIT_ATTENTION)
        same(reach(graph, v, out), placed(8, 8))
        for reader in (q, k, v):
            assert (node_of(graph, reader).in_size, node_of(graph, reader).out_size) == (8, 8)
            same(reach(graph, "patches", reader), placed(8, 8))
        product = meeting(graph, q, k)
        same(reach(graph, q, product), placed(8, 8))
        same(reach(graph, k, product), placed(8, 8))
        assert (node_of(graph, out).in_size, node_of(graph, out).out_size) == (8, 8)


def test_queries_keys_and_values_of_one_kernel() -> None:
    graph = linen("gpt2")
    for i in range(2):
        qkv, out = f"layers_{i}/qkv", f"layers_{i}/out"
        same(reach(graph, qkv, out), placed(24, 8, -16))
        same(reach(graph, qkv, meeting(graph, qkv, qkv)), placed(24, 8) | placed(24, 8, -8))


def test_a_tied_head_reads_the_embedding_again() -> None:
    graph = linen("gpt2")
    embedding, head = node_of(graph, "tokens"), node_of(graph, "tokens*")
    assert (embedding.tied_to, head.tied_to) == ("", embedding.name)
    assert (embedding.in_size, embedding.out_size) == (11, 8)
    assert (head.in_size, head.out_size) == (8, 11)
    assert embedding.path == head.path == "tokens/embedding"
    same(reach(graph, "tokens", "tokens*"), placed(8, 8))


@pytest.mark.parametrize("case", [name for name in LINEN if name.startswith("llama")] + ["nnx"])
def test_queries_meet_the_keys_and_values_of_their_group(case: str) -> None:
    graph = nnx_graph("llama") if case == "nnx" else linen(case)
    rename = slashed if case == "nnx" else stacked if "scan" in case else str
    heads, kv_heads, size = 4, 2, 4
    # Head h asks the key and value head h // 2.
    group = np.arange(heads) // (heads // kv_heads) == np.arange(kv_heads)[:, None]
    for i in range(3):
        q, k, v, o = (rename(f"layers_{i}/{name}") for name in "qkvo")
        same(reach(graph, v, o), np.kron(group, np.eye(size, dtype=bool)))
        product = meeting(graph, q, k)
        met = reach(graph, q, product).astype(int) @ reach(graph, k, product).T
        # Rotary positions mix channels d and d + 2 of a head.
        half = np.tile(np.eye(size // 2, dtype=bool), (2, 2))
        same(met > 0, np.kron(group.T, half))


def test_gates_meet_before_the_way_down() -> None:
    graph = linen("llama")
    for i in range(3):
        gate, up, down = (f"layers_{i}/{name}" for name in ("gate", "up", "down"))
        product = meeting(graph, gate, up)
        for name in (gate, up):
            same(reach(graph, name, product), placed(12, 12))
            same(reach(graph, name, down), placed(12, 12))


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("repeat", [False, True])
def test_a_scan_is_the_loop(repeat: bool, remat: bool) -> None:
    settings: dict[str, Any] = DECODER | dict(repeat=repeat, remat=remat)
    loop, scan = (traced(zoo.Llama(**settings, scan=scan), TOKENS) for scan in (False, True))
    (after, before), (after_scan, before_scan) = neighbours(loop), neighbours(scan)
    assert renamed(before, stacked) == before_scan
    assert renamed(after, stacked) == after_scan
    for name in "q", "k", "v", "o", "gate", "up", "down":
        nodes = [node for node in scan.layers if node.path == f"layers/{name}/kernel"]
        assert [node.place for node in nodes] == [(0,), (1,), (2,)]
        assert {node.shape for node in nodes} == {node_of(loop, f"layers_0/{name}").shape}
    for target, sources in before.items():
        for source in sources:
            same(reach(loop, source, target), reach(scan, stacked(source), stacked(target)))


@pytest.mark.parametrize("case", ["gpt2", "vit"])
def test_positions_that_are_looked_up_are_a_layer(case: str) -> None:
    """Constant ones are a bias."""
    if case == "gpt2":
        graph = traced(zoo.GPT2(2, 8, 2, 11, 7), TOKENS, TOKENS)
        wanted = in_a_row("tokens") | {"positions": set()}
        both = {"tokens", "positions"}
        wanted |= {
            name: sources | both if sources & both else sources
            for name, sources in gpt2(2).items()
            if name != "tokens"
        }
        check(graph, wanted)
        for name in both:
            same(reach(graph, name, "layers_0/qkv"), placed(8, 8))
    assert "positions" not in neighbours(linen(case))[0]


def test_strides_and_pools() -> None:
    """Where a convolution follows."""
    graph = linen("conv")
    assert node_of(graph, "Conv_0").pool == 2
    graph = linen("resnet")
    for node in graph.layers:
        halves = label(node) in ("Conv_0", "Bottleneck_2/Conv_1", "Bottleneck_2/shortcut")
        assert node.strides == (2 if halves else 1)
        assert node.pool == (2 if label(node) == "Conv_0" else 1)
    graph = paper_network("vgg11")[0]
    pools = [node.pool for node in graph.layers if node.is_conv]
    assert pools[:-1] == [2, 2, 1, 2, 1, 2, 1]


# ---------------------------------------------------------------- norms


def test_norms_right_after_their_convolution() -> None:
    assert norms(linen("resnet")) == {"Conv_0": "BatchNorm_0"} | {
        f"Bottleneck_{block}/Conv_{i}": f"Bottleneck_{block}/BatchNorm_{i}"
        for block in range(5)
        for i in range(3)
    } | {f"Bottleneck_{b}/shortcut": f"Bottleneck_{b}/shortcut_norm" for b in (0, 2)}
    assert norms(linen("mobilenet")) == {
        "Conv_0": "BatchNorm_0",
        "Conv_1": "BatchNorm_1",
        "InvertedResidual_0/depthwise": "InvertedResidual_0/BatchNorm_0",
        "InvertedResidual_0/project": "InvertedResidual_0/BatchNorm_1",
    } | {
        f"InvertedResidual_{block}/{name}": f"InvertedResidual_{block}/BatchNorm_{i}"
        for block in range(1, 5)
        for i, name in enumerate(("expand", "depthwise", "project"))
    }
    assert norms(nnx_graph("resnet")) == {"conv": "norm"} | {
        f"blocks/{block}/conv{i}": f"blocks/{block}/norm{i}" for block in range(4) for i in (1, 2)
    } | {"blocks/2/shortcut": "blocks/2/shortcut_norm"}
    for graph in (linen("resnet"), linen("mobilenet"), nnx_graph("resnet")):
        found = [node for node in graph.layers if node.norm]
        assert all(node.factors == Norm(node.norm, 1e-5, True).factors for node in found)
        assert not factors(graph)


def scales(*modules: str) -> set[str]:
    return {f"{module}/scale" for module in modules}


def batch_norm_factors(*modules: str) -> set[str]:
    return scales(*modules) | {f"{module}/var" for module in modules}


def test_norms_of_streams_are_factors() -> None:
    graph = linen("wide resnet")
    # The first block's norm is all that reads the stem.
    assert norms(graph) == {"Conv_0": "PreActivation_0/BatchNorm_0"} | {
        f"PreActivation_{i}/Conv_0": f"PreActivation_{i}/BatchNorm_1" for i in range(4)
    }
    streams = [f"PreActivation_{i}/BatchNorm_0" for i in range(1, 4)]
    assert factors(graph) == batch_norm_factors(*streams, "BatchNorm_0")

    graph = linen("wide resnet, one width")
    assert norms(graph) == {
        f"PreActivation_{i}/Conv_0": f"PreActivation_{i}/BatchNorm_1" for i in range(2)
    }
    streams = [f"PreActivation_{i}/BatchNorm_0" for i in range(2)]
    assert factors(graph) == batch_norm_factors(*streams, "BatchNorm_0")

    graph = linen("densenet")
    assert norms(graph) == {"Conv_0": "BatchNorm_0"} | {
        f"DenseLayer_{i}/Conv_0": f"DenseLayer_{i}/BatchNorm_1" for i in range(5)
    }
    streams = [f"DenseLayer_{i}/BatchNorm_0" for i in range(5)]
    assert factors(graph) == batch_norm_factors(*streams, "Transition_0/BatchNorm_0", "BatchNorm_1")
    for case in ("wide resnet", "densenet"):
        found = [factor for junction in linen(case).junctions for factor in junction.factors]
        for factor in found:
            wanted = (-0.5, pytest.approx(1e-5)) if factor.path.endswith("/var") else (1, 0)
            assert (factor.power, factor.shift) == wanted


def test_layer_norms_are_factors_of_their_scale() -> None:
    for case in ("vit", "gpt2"):
        blocks = [f"layers_{i}/LayerNorm_{j}" for i in range(2) for j in range(2)]
        assert factors(linen(case)) == scales(*blocks, "LayerNorm_0")
        assert norms(linen(case)) == {}
    blocks = [f"layers/{i}/norm{j}" for i in range(2) for j in (1, 2)]
    assert factors(nnx_graph("vit")) == scales(*blocks, "norm")
    blocks = [f"layers_{i}/before_{part}" for i in range(3) for part in ("attention", "mlp")]
    assert factors(linen("llama")) == scales(*blocks, "norm")
    assert norms(linen("llama")) == {}


def test_a_scanned_norm_takes_its_own_row_of_the_scales() -> None:
    found: dict[str, list[list[int]]] = defaultdict(list)
    for junction in linen("llama, scan").junctions:
        for factor in junction.factors:
            if factor.path != "norm/scale":
                assert factor.entries is not None
                found[factor.path].append(factor.entries.values.tolist())
    wanted = np.arange(3 * 16).reshape(3, 16).tolist()
    assert found == {f"layers/before_{part}/scale": wanted for part in ("attention", "mlp")}


# ---------------------------------------------------------------- what cannot be followed


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.OptimizedLSTMCell])
def test_recurrence_is_reported(cell: Any) -> None:
    graph = traced(zoo.LSTM(11, 6, 8, 3, cell), TOKENS)
    assert {"Embed_0", "inputs", "head"} <= {label(node) for node in graph.layers}
    said = " ".join(
        " ".join((*barrier.before, *barrier.after, barrier.why)) for barrier in graph.barriers
    )
    for gate in "ifgo":
        assert f"cell/h{gate}" in said
    assert neighbours(graph)[0]["Embed_0"] == {"inputs"}


def test_gates_of_a_recurrence_read_the_inputs() -> None:
    after, before = neighbours(traced(zoo.LSTM(11, 6, 8, 3, nn.LSTMCell), TOKENS))
    of_input, of_state = ({f"cell/{kind}{gate}" for gate in "ifgo"} for kind in "ih")
    assert after["inputs"] == of_input
    assert all(before[name] == {"inputs"} for name in of_input)
    assert all(before[name] == set() for name in of_state)
    assert before["head"] == of_input | of_state


# ---------------------------------------------------------------- by differentiation

FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
KERNELS = (nn.Conv, nn.ConvTranspose, nn.Dense, nn.DenseGeneral, nn.Embed)


def energy(module: nn.Module, variables: Any, graph: Graph, x: jax.Array) -> dict[str, Any]:
    """Derivatives of every layer's inputs by an addition to every layer's output channels.

    Layers pass nothing on: what is seen goes from layer to layer past all others.
    """

    def inputs(additions: dict[str, jax.Array]) -> dict[str, jax.Array]:
        seen = {}

        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if isinstance(context.module, (nn.LayerNorm, nn.RMSNorm)):
                return args[0]  # Without the mean and the size, which all channels have a part in.
            if context.method_name == "setup" or not isinstance(context.module, KERNELS):
                return call(*args, **kwargs)
            name = "/".join(context.module.path) + "*" * (context.method_name == "attend")
            if jnp.issubdtype(args[0].dtype, jnp.floating):
                seen[name] = args[0].reshape(-1, node_of(graph, name).in_size)
            y = jax.lax.stop_gradient(call(*args, **kwargs))
            addition = additions.get(name)
            return y if addition is None else y + addition.reshape(context.module.features)

        with nn.intercept_methods(intercept):
            module.apply(variables, x)
        return seen

    zeros = {label(node): jnp.zeros(node.out_size) for node in graph.layers if not node.tied_to}
    # To compile takes far longer than to run.
    found = jax.jit(jax.jacfwd(inputs), compiler_options=FAST)(zeros)
    return jax.tree.map(lambda leaf: np.abs(leaf).sum(0).T, found)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("mobilenet", "llama, groups")
        else name
        for name in LINEN
        if "scan" not in name and "remat" not in name
    ],
)
def test_no_energy_outside_traced_channels(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs, _ = LINEN[case]
    softmax = jax.nn.softmax
    monkeypatch.setattr(jax.nn, "softmax", lambda x: jax.lax.stop_gradient(softmax(x)))
    # No channel may be dead by chance.
    monkeypatch.setattr(nn, "relu", nn.softplus)
    monkeypatch.setattr(nn, "relu6", nn.softplus)
    if inputs.dtype == jnp.int32:
        x = jax.random.randint(jax.random.key(1), inputs.shape, 0, 11)
    else:
        x = jax.random.normal(jax.random.key(1), inputs.shape)
    graph = linen(case)
    for target, sources in energy(module, drawn(shapes(module, x)), graph, x).items():
        for source, size in sources.items():
            channels = reach(graph, source, target)
            assert not (size * ~channels).any(), f"{source} -> {target}"
            # Positions are not told apart: the head reads the class token alone.
            if (case, source, target) != ("vit, token", "patches", "head"):
                assert (size[channels] > 0).all(), f"{source} -> {target}"


# ---------------------------------------------------------------- the paper's networks


def paper_network(model: str) -> tuple[Graph, Any, Any]:
    """A sixteenth of the neurons, with random weights."""
    setting = MODELS[model]
    module: Any = setting.build(10, setting.activation)
    module = module.clone(widths=tuple(width // 16 for width in module.widths))
    x = jnp.zeros((1, 28, 28, 1) if model in ("fcn", "linear") else (1, 32, 32, 3))
    variables = drawn(shapes(module, x))
    graph = lap_jax.trace(module.apply, variables, x)
    return graph, variables["params"], variables.get("batch_stats")


def check_masks(model: str, methods: Iterable[str]) -> None:
    graph, params, stats = paper_network(model)
    if model == "resnet18":
        graph = graph.main_path()
    for method in methods:
        found, wanted = (
            lap_jax.lookahead_masks(
                params,
                chain,
                0.8,
                method=lap_jax.METHODS[method],
                batch_stats=stats,
                key=jax.random.key(3),
            )
            for chain in (graph, MODELS[model].chain)
        )
        chex.assert_trees_all_equal(found, wanted)


# Equal graphs give equal masks: the others are held by the test of graphs, and here when slow.
@pytest.mark.parametrize(
    "model",
    [
        model if model in ("fcn", "resnet18") else pytest.param(model, marks=pytest.mark.slow)
        for model in MODELS
    ],
)
def test_the_papers_networks_have_the_masks_of_their_chains(model: str) -> None:
    check_masks(model, ["LAP"])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["fcn", "conv6", "vgg11"])
def test_the_papers_networks_have_the_masks_of_their_chains_by_all_methods(model: str) -> None:
    check_masks(model, lap_jax.METHODS)


@pytest.mark.parametrize("model", [model for model in MODELS if model != "resnet18"])
def test_the_papers_networks_have_the_graphs_of_their_chains(model: str) -> None:
    """Masks depend on nothing else: they are equal by every method."""
    graph, params, stats = paper_network(model)
    wanted = lap_jax.chain(params, MODELS[model].chain, stats)
    # Chains do not say where pools are.
    layers = tuple(replace(layer, pool=1) for layer in graph.layers)
    assert (layers, graph.edges, graph.junctions, graph.barriers) == (
        wanted.layers,
        wanted.edges,
        (),
        (),
    )


def test_a_resnet_has_its_shortcuts_and_all_of_the_main_path() -> None:
    graph, params, stats = paper_network("resnet18")
    chain = lap_jax.chain(params, MODELS["resnet18"].chain, stats)
    shortcuts = {f"Block_{block}/shortcut" for block in (2, 4, 6)}
    assert {label(node) for node in graph.layers} == {*chain.names} | shortcuts
    assert norms(graph) == norms(chain) | {name: f"{name}_norm" for name in shortcuts}
    before, stream = neighbours(graph)[1], {"Conv_0"}
    for block in range(8):
        one, two, shortcut = (f"Block_{block}/{name}" for name in ("Conv_0", "Conv_1", "shortcut"))
        assert (before[one], before[two]) == (stream, {one})
        if block in (2, 4, 6):
            assert before[shortcut] == stream
            stream = {two, shortcut}
        else:
            stream = stream | {two}
    assert before["Dense_0"] == stream


# ---------------------------------------------------------------- large networks


@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_decoder_of_70b_is_read_by_its_shapes(scan: bool) -> None:
    graph = traced(zoo.Llama(scan=scan), TOKENS)
    assert len(graph.layers) == 80 * 7 + 2
    # All but the norms.
    assert sum(node.size for node in graph.layers) == 70_553_706_496 - (2 * 80 + 1) * 8192
    check(graph, renamed(llama(80), stacked) if scan else llama(80))
