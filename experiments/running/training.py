"""Training, retraining and evaluation of many networks at once: one compiled program.

Everything that belongs to one network carries a leading axis. The networks are shared out over the
devices; an accelerator computes all of its networks in one `jax.vmap`, a CPU device one after the
other, because its caches hold one network with its optimizer state and not several.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import lap_jax

Tree = Any
Apply = Callable[..., Any]


class Network(NamedTuple):
    """Parameters and running statistics; ``[networks, ...]`` where there are several."""

    params: Tree
    batch_stats: Tree


class Training(NamedTuple):
    """Networks and the states of their optimizers: ``[networks, ...]``."""

    network: Network
    state: Tree


class Errors(NamedTuple):
    """Fractions of wrong answers, and mean cross entropies in nats: float32 ``[networks]``.

    There is an answer per label: one per image, one per character of a text.
    """

    error: np.ndarray
    loss: np.ndarray


class Data(NamedTuple):
    """Examples on the device: inputs and int32 labels, both ``[examples, ...]``."""

    inputs: jax.Array
    labels: jax.Array


def draw_batch(key: jax.Array, examples: int, size: int) -> jax.Array:
    """Draw ``size`` distinct indices below ``examples``, uniformly; int32 ``[size]``.

    Draws with replacement, again until no index comes twice: that leaves all sets of distinct
    indices equally likely. Where it would take many attempts, the whole range is shuffled instead.
    """
    if size * size > 4 * examples:
        return jax.random.permutation(key, examples)[:size]

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (size,), 0, examples)

    def has_twins(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        ordered = jnp.sort(carry[1])
        return jnp.any(ordered[1:] == ordered[:-1])

    def again(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(carry[0], 1)
        return key, draw(key)

    return lax.while_loop(has_twins, again, (key, draw(key)))[1]


class Trainer:
    """Compiled training of networks of one architecture on one data set.

    Args:
      apply: ``(Network, inputs [batch, ...], train) -> (logits [batch, classes], batch_stats)`` of
        one network.
      init: ``key -> Network``, one network.
      optimizer: ``masks -> transformation`` of one network; ``update`` is given ``batch_stats``
        too, and must know the masks by its state alone.
      train, test: float32 inputs and int32 labels, moved to the devices once.
      batch_size: examples per step, drawn without replacement, each batch independent of the rest.
      augment: ``(key, inputs [batch, ...]) -> inputs`` of a training batch.
      masked: ``(params, optimizer state) -> params`` that the forward pass uses.
      devices: to share the networks among; all of them by default.
    """

    def __init__(
        self,
        apply: Apply,
        init: Callable[[jax.Array], Network],
        optimizer: Callable[[Tree], optax.GradientTransformationExtraArgs],
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        batch_size: int,
        augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
        masked: Callable[[Tree, Tree], Tree] = lambda params, state: params,
        devices: list[Any] | None = None,
    ) -> None:
        """Keep the recipe; data move and programs compile when they are first needed."""
        self.devices = devices or jax.devices()
        self._apply, self._init, self._optimizer = apply, init, optimizer
        self._arrays = {"train": train, "test": test}
        self._batch_size, self._augment, self._masked = batch_size, augment, masked
        self._data: dict[tuple[str, int], Data] = {}
        self._programs: dict[Any, Any] = {}

    def applying(self, apply: Apply) -> Trainer:
        """Return a trainer of another form of the networks, with the same data on the devices."""
        other = copy.copy(self)
        other._apply, other._programs = apply, {}
        return other

    def init(self, keys: jax.Array) -> Network:
        """Return new networks, one per key."""
        return self._program("init", len(keys))(self._placed(keys))

    def start(self, network: Network, masks: Tree) -> Training:
        """Return networks, pruned, with new optimizer states.

        Args:
          network: left as it is.
          masks: of the structure of ``network.params``, each leaf ``[networks]`` or
            ``[networks, ...]``.
        """
        lanes = len(jax.tree.leaves(network)[0])
        return self._program("start", lanes)(self._placed(network), self._placed(masks))

    def advance(self, training: Training, keys: jax.Array, first: int, count: int) -> Training:
        """Train for ``count`` steps, the first of them number ``first``; ``training`` is used up.

        The batches of a network depend on its key and the step's number alone.
        """
        keys, data = self._placed(keys), self._resident("train", len(keys))
        if self._stepwise:
            program = self._program("step", len(keys))
            for index in range(first, first + count):
                training = program(training, keys, np.int32(index), data)
            return training
        program = self._program("advance", len(keys))
        return program(training, keys, np.int32(first), np.int32(count), data)

    def errors(self, training: Training, split: str, examples: int = 0) -> Errors:
        """Evaluate on the first ``examples`` of "train" or "test"; 0: on all of them."""
        lanes = len(jax.tree.leaves(training.network)[0])
        data = self._resident(split, lanes)
        program = self._program("errors", lanes, examples or len(data.labels))
        return Errors(*jax.device_get(program(training, data)))

    def used(self, lanes: int) -> int:
        """Return how many devices share ``lanes`` networks: a divisor of their number."""
        return max(n for n in range(1, len(self.devices) + 1) if lanes % n == 0)

    def bytes_per_network(self) -> int:
        """Return about how much memory one more network takes in `advance`, from the compiler."""
        key = jax.ShapeDtypeStruct((1,), jax.random.key(0).dtype)
        network = jax.eval_shape(self._program("init", 1), key)
        masks = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1,), bool), network.params)
        training = jax.eval_shape(self._program("start", 1), network, masks)
        step = jax.ShapeDtypeStruct((), np.int32)
        data = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._host("train"))
        compiled = self._program("advance", 1).lower(training, key, step, step, data).compile()
        memory = compiled.memory_analysis()
        state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(training)
                    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended))  # fmt: skip
        # The state is donated; some backends need a second copy of it all the same.
        return 2 * state + int(memory.temp_size_in_bytes)

    @cached_property
    def shapes(self) -> Network:
        """Shapes and dtypes of one network."""
        return jax.eval_shape(self._init, jax.random.key(0))

    @cached_property
    def width(self) -> int:
        """How many networks to train at once: as many as the devices' memory holds.

        On CPUs one per device: more would not be faster, and checkpoints would be larger.
        """
        limits = [(device.memory_stats() or {}).get("bytes_limit") for device in self.devices]
        if self.devices[0].platform == "cpu" or None in limits:
            return len(self.devices)
        data = sum(np.asarray(array).nbytes for split in self._arrays.values() for array in split)
        room = 0.8 * min(limit for limit in limits if limit) - data
        return len(self.devices) * max(int(room // self.bytes_per_network()), 1)

    @cached_property
    def _stepwise(self) -> bool:
        """Whether to start every step from the host.

        Inside a loop, be it over steps or over networks, XLA leaves the gradient of a convolution's
        kernel in a form for which its CPU backend has slow code only: twenty times and more.
        """
        if self.devices[0].platform != "cpu":
            return False
        return any(leaf.ndim > 2 for leaf in jax.tree.leaves(self.shapes.params))

    def _mesh(self, lanes: int) -> jax.sharding.Mesh:
        devices = self.devices[: self.used(lanes)]
        return jax.sharding.Mesh(np.array(devices), ("networks",))

    def _placed(self, tree: Tree) -> Tree:
        lanes = len(jax.tree.leaves(tree)[0])
        return jax.device_put(tree, NamedSharding(self._mesh(lanes), P("networks")))

    def _host(self, split: str) -> Data:
        inputs, labels = self._arrays[split]
        return Data(np.asarray(inputs, np.float32), np.asarray(labels, np.int32))  # type: ignore[arg-type]

    def _resident(self, split: str, lanes: int) -> Data:
        place = split, self.used(lanes)
        if place not in self._data:
            whole = NamedSharding(self._mesh(lanes), P())
            self._data[place] = jax.device_put(self._host(split), whole)
        return self._data[place]

    def _program(self, name: str, lanes: int, *static: int) -> Any:
        """Return a compiled function of networks, each device on its own share of them."""
        place = name, self.used(lanes), *static
        if place not in self._programs:
            mesh = self._mesh(lanes)
            each: Any = partial(_each, mesh.devices.flat[0].platform != "cpu")
            # The function, and how many of its arguments have an axis of networks.
            recipes: dict[str, tuple[Callable[..., Any], int, int]] = {
                "init": (partial(each, self._init), 1, 0),
                "start": (partial(each, self._begin), 2, 0),
                "advance": (partial(self._steps, each), 2, 3),
                "step": (self._one_step, 2, 2),
                "errors": (partial(self._evaluate, each, sum(static)), 1, 1),
            }
            function, own, shared = recipes[name]
            mapped = jax.shard_map(
                function, mesh=mesh, in_specs=(P("networks"),) * own + (P(),) * shared,
                out_specs=P("networks"), check_vma=False,
            )  # fmt: skip
            donated = (0,) if name in ("advance", "step") else ()
            self._programs[place] = jax.jit(mapped, donate_argnums=donated)
        return self._programs[place]

    def _begin(self, network: Network, masks: Tree) -> Training:
        full = jax.tree.map(
            lambda mask, leaf: jnp.broadcast_to(mask, leaf.shape), masks, network.params
        )
        params = lap_jax.apply_masks(network.params, full)
        state = self._optimizer(full).init(params)
        return Training(Network(params, network.batch_stats), state)

    def _steps(
        self, each: Any, training: Training, keys: jax.Array, first: Any, count: Any, data: Data
    ) -> Training:
        # A loop whose length is an argument: one program serves every number of steps.
        def one(training: Training, key: jax.Array) -> Training:
            def body(index: jax.Array, training: Training) -> Training:
                return self._step(training, jax.random.fold_in(key, index), data)

            return lax.fori_loop(first, first + count, body, training)

        return each(one, training, keys)

    def _one_step(self, training: Training, keys: jax.Array, index: Any, data: Data) -> Training:
        lanes = [
            self._step(jax.tree.map(lambda leaf: leaf[lane], training),  # noqa: B023
                       jax.random.fold_in(keys[lane], index), data)
            for lane in range(len(keys))
        ]  # fmt: skip
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *lanes)

    def _step(self, training: Training, key: jax.Array, data: Data) -> Training:
        (params, batch_stats), state = training
        batch = draw_batch(key, len(data.labels), self._batch_size)
        inputs, labels = data.inputs[batch], data.labels[batch]
        if self._augment is not None:
            inputs = self._augment(jax.random.fold_in(key, 1), inputs)

        def loss(params: Tree) -> tuple[jax.Array, Tree]:
            used = Network(self._masked(params, state), batch_stats)
            logits, statistics = self._apply(used, inputs, True)
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, labels
            ).mean(), statistics

        gradient, batch_stats = jax.grad(loss, has_aux=True)(params)
        masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
        update = self._optimizer(masks).update
        updates, state = update(gradient, state, params, batch_stats=batch_stats)
        return Training(Network(optax.apply_updates(params, updates), batch_stats), state)

    def _evaluate(
        self, each: Any, examples: int, training: Training, data: Data
    ) -> tuple[jax.Array, jax.Array]:
        def one(training: Training) -> tuple[jax.Array, jax.Array]:
            params, batch_stats = training.network
            network = Network(self._masked(params, training.state), batch_stats)

            def count(batch: Data) -> tuple[jax.Array, jax.Array]:
                logits, _ = self._apply(network, batch.inputs, False)
                wrong = (jnp.argmax(logits, -1) != batch.labels).sum()
                nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).sum()
                return wrong, nats

            # Whole batches in a loop, then what is left over.
            per_example = math.prod(data.labels.shape[1:])
            size = max(1, min(1000, 100_000 // per_example, examples))
            whole = examples // size * size
            batches = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), data)
            wrong, nats = jax.tree.map(jnp.sum, lax.map(count, batches))
            if whole < examples:
                rest = count(jax.tree.map(lambda x: x[whole:examples], data))
                wrong, nats = wrong + rest[0], nats + rest[1]
            answers = examples * per_example
            return wrong / answers, nats / answers

        return each(one, training)


def _each(together: bool, function: Callable[..., Any], *arguments: Tree) -> Tree:
    """Apply a function to each network: to all at once, or to one after the other."""
    if together:
        return jax.vmap(function)(*arguments)
    return lax.map(lambda each: function(*each), arguments)
