"""What is timed: our masks and the ways others make them, each a function without arguments."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lap_jax
from experiments.benchmarks.floor import native
from experiments.benchmarks.workloads import KEPT, LAST, Workload

Masks = list[Any]
Call = Callable[[], Masks]


class Unavailable(Exception):
    """An entry cannot run here; the message says why."""


class Peers(NamedTuple):
    """Folders with checkouts of other people's programs, where the user has them."""

    jaxpruner: Path | None = None
    reference: Path | None = None


def entries(workload: Workload, peers: Peers) -> dict[str, Callable[[], Call]]:
    """Return what can be timed on a workload: functions that set an entry up and return its call.

    Setting up is not timed: what is timed starts with arrays where the entry wants them.
    """
    kernels = workload.kernels
    ours = partial(_ours, kernels)
    return {
        "floor": lambda: native(kernels, _thresholds(kernels)),
        "XLA, one pass": lambda: _xla_pass(kernels),
        "memcpy": lambda: partial(_copy, kernels, [np.empty_like(kernel) for kernel in kernels]),
        "MP": lambda: ours(method="MP"),
        "LAP": lambda: ours(),
        "LAP-backward-seq": lambda: ours(method="LAP-backward-seq"),
        "MP, global": lambda: ours(method="MP", scope="global"),
        "LAP, global": lambda: ours(scope="global"),
        **{
            f"{name}, last level": partial(
                ours, LAST, method=method, effective=name.endswith("effective")
            )
            for method in ("MP", "LAP", "RP")
            for name in (method, f"{method}, effective")
        },
        "jnp.sort": lambda: _jitted(kernels, _by_sort),
        "lax.top_k": lambda: _jitted(kernels, _by_top_k),
        "numpy.partition": lambda: partial(_by_partition, kernels),
        "torch l1_unstructured": lambda: _torch(kernels, _torch_prune),
        "torch.topk": lambda: _torch(kernels, _torch_topk),
        "torch.kthvalue": lambda: _torch(kernels, _torch_kthvalue),
        "JaxPruner": lambda: _jaxpruner(kernels, peers.jaxpruner),
        "LAP reference": lambda: _reference(kernels, peers.reference),
    }


def kept(kernel: np.ndarray, share: float = KEPT) -> int:
    """Return how many weights of a kernel stay."""
    return round((1 - (1 - share)) * kernel.size)


OURS = ("MP", "LAP", "LAP-backward-seq", "MP, global", "LAP, global")


def miscount(name: str, workload: Workload, masks: Masks) -> int:
    """Return how many weights more than wanted the masks of an entry keep; check ours in full.

    Raises:
      ValueError: if ours keep another number, or MP others than a stable sort in NumPy.
    """
    arrays = [np.asarray(mask) for mask in masks]
    last = name.endswith("last level")
    wanted = [kept(kernel, LAST if last else KEPT) for kernel in workload.kernels]
    total = round((1 - (1 - KEPT)) * workload.size) if "global" in name else sum(wanted)
    more = sum(int(mask.sum()) for mask in arrays) - total
    if (name in OURS or last) and more:
        raise ValueError(f"{name} keeps {more} weights more than {total}")
    if name == "MP":
        for index, (kernel, mask) in enumerate(zip(workload.kernels, arrays, strict=True)):
            largest = np.argsort(-np.abs(kernel), axis=None, kind="stable")[: wanted[index]]
            if mask.sum() != wanted[index] or not mask.reshape(-1)[largest].all():
                raise ValueError(f"MP: kernel {index} keeps others than the largest")
    return more


def _ours(kernels: list[np.ndarray], share: float = KEPT, **settings: Any) -> Call:
    params = {f"layer_{i:02}": {"kernel": jnp.asarray(k)} for i, k in enumerate(kernels)}
    graph = lap_jax.chain(params, list(params))
    key = jax.random.key(0)

    def call() -> Masks:
        masks = lap_jax.lookahead_masks(params, graph, 1 - share, key=key, **settings)
        return [layer["kernel"] for layer in masks.values()]

    return call


def _thresholds(kernels: list[np.ndarray]) -> list[float]:
    return [
        float(np.partition(np.abs(kernel), kernel.size - kept(kernel), axis=None)[-kept(kernel)])
        for kernel in kernels
    ]


def _xla_pass(kernels: list[np.ndarray]) -> Call:
    arrays, thresholds = [jnp.asarray(kernel) for kernel in kernels], _thresholds(kernels)

    @jax.jit
    def masks(arrays: Any, thresholds: Any) -> Masks:
        return [jnp.abs(w) >= t for w, t in zip(arrays, thresholds, strict=True)]

    return lambda: masks(arrays, thresholds)


def _copy(kernels: list[np.ndarray], outputs: list[np.ndarray]) -> Masks:
    for kernel, output in zip(kernels, outputs, strict=True):
        np.copyto(output, kernel)
    return outputs


def _jitted(kernels: list[np.ndarray], one: Callable[[jax.Array, int], jax.Array]) -> Call:
    arrays = [jnp.asarray(kernel) for kernel in kernels]
    counts = [kept(kernel) for kernel in kernels]
    masks = jax.jit(lambda arrays: [one(w, k) for w, k in zip(arrays, counts, strict=True)])
    return lambda: masks(arrays)


def _by_sort(kernel: jax.Array, count: int) -> jax.Array:
    scores = jnp.abs(kernel)
    return scores >= jnp.sort(scores, axis=None)[kernel.size - count]


def _by_top_k(kernel: jax.Array, count: int) -> jax.Array:
    scores = jnp.abs(kernel)
    return scores >= jax.lax.top_k(scores.reshape(-1), count)[0][-1]


def _by_partition(kernels: list[np.ndarray]) -> Masks:
    masks = []
    for kernel in kernels:
        scores = np.abs(kernel)
        place = kernel.size - kept(kernel)
        masks.append(scores >= np.partition(scores, place, axis=None)[place])
    return masks


def _torch(kernels: list[np.ndarray], one: Callable[[Any, Any, int], Any]) -> Call:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise Unavailable("torch is not installed") from None
    tensors = [torch.from_numpy(kernel) for kernel in kernels]
    counts = [kept(kernel) for kernel in kernels]
    return lambda: [one(torch, w, k) for w, k in zip(tensors, counts, strict=True)]


def _torch_prune(torch: Any, kernel: Any, count: int) -> Any:
    prune = importlib.import_module("torch.nn.utils.prune")
    pruning = prune.L1Unstructured(amount=kernel.numel() - count)
    return pruning.compute_mask(kernel, torch.ones_like(kernel)).numpy().astype(bool)


def _torch_topk(torch: Any, kernel: Any, count: int) -> Any:
    mask = torch.zeros(kernel.numel(), dtype=torch.bool)
    mask[torch.topk(kernel.abs().view(-1), count, sorted=False).indices] = True
    return mask.view(kernel.shape).numpy()


def _torch_kthvalue(torch: Any, kernel: Any, count: int) -> Any:
    scores = kernel.abs()
    return (scores >= torch.kthvalue(scores.view(-1), kernel.numel() - count + 1).values).numpy()


def _jaxpruner(kernels: list[np.ndarray], folder: Path | None) -> Call:
    if folder is None:
        raise Unavailable("needs --jaxpruner FOLDER")
    # The last JaxPruner uses a name that JAX has dropped since.
    jax.tree_map = jax.tree.map  # type: ignore[attr-defined]
    sys.path.insert(0, str(folder))
    try:
        jaxpruner = importlib.import_module("jaxpruner")
    except ImportError as error:
        raise Unavailable(f"JaxPruner does not import: {error}") from None
    pruner = jaxpruner.MagnitudePruning(
        sparsity_distribution_fn=partial(
            jaxpruner.sparsity_distributions.uniform, sparsity=1 - KEPT
        ),
        scheduler=jaxpruner.sparsity_schedules.OneShotSchedule(0),
    )
    params = {f"layer_{i:02}": jnp.asarray(kernel) for i, kernel in enumerate(kernels)}
    pruner.wrap_optax(optax.sgd(0.1)).init(params)
    masks = jax.jit(lambda params: pruner.instant_sparsify(params)[1])
    return lambda: [mask.astype(bool) for mask in masks(params).values()]


def _reference(kernels: list[np.ndarray], folder: Path | None) -> Call:
    if folder is None:
        raise Unavailable("needs --reference FOLDER")
    # The package without its __init__, which asks for old libraries that this part has no use of.
    package = types.ModuleType("method")
    package.__path__ = [str(folder / "method")]
    sys.modules["method"] = package
    try:
        torch = importlib.import_module("torch")
        method = importlib.import_module("method.laprune").LAP
    except (ImportError, AttributeError) as error:
        raise Unavailable(f"the reference does not import: {error}") from None
    weights = [
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1))))
        for kernel in kernels
    ]
    masks = [torch.ones_like(weight) for weight in weights]
    ratios = [1 - KEPT] * len(weights)

    def call() -> Masks:
        found = method(weights, masks, ratios, None)
        return [np.moveaxis(mask.numpy() > 0, (0, 1), (-1, -2)) for mask in found]

    return call
