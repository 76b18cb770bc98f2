"""Masks on disk: what goes in comes out, in a bit per weight, or not at all."""

import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze
from safetensors.numpy import load_file, save_file

from lap_jax import (
    PruningError,
    load_masks,
    load_pruned,
    lookahead_masks,
    read_metadata,
    save_masks,
)
from tests import oracle

WIDTHS = [5, 7, 9, 4]


def pair(widths: list[int] = WIDTHS, seed: int = 0) -> tuple[oracle.Tree, Any]:
    params = oracle.dense_tree(np.random.default_rng(seed), widths)
    return params, lookahead_masks(params, list(params), 0.6)


def assert_equal(found: Any, wanted: Any) -> None:
    chex.assert_type(jax.tree.leaves(found), bool)
    chex.assert_trees_all_equal(found, wanted)


class Net(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 5, (3, 3), rngs=rngs)
        self.head = nnx.Linear(20, 3, rngs=rngs)


def any_pair(kind: str) -> tuple[Any, Any]:
    params, masks = pair()
    match kind:
        case "dict":
            return params, masks
        case "FrozenDict":
            return freeze(params), freeze(masks)
        case "Partitioned":
            boxed: dict[str, Any] = {
                name: {key: nn.Partitioned(leaf, (None,) * leaf.ndim) for key, leaf in sub.items()}
                for name, sub in params.items()
            }
            return boxed, lookahead_masks(boxed, list(boxed), 0.6)
        case "nnx.State":
            state = nnx.state(Net(), nnx.Param)
            return state, lookahead_masks(state, ["conv", "head"], 0.6)
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["dict", "FrozenDict", "Partitioned", "nnx.State"])
def test_what_goes_in_comes_out(kind: str, tmp_path: Path) -> None:
    params, masks = any_pair(kind)
    save_masks(tmp_path / "masks.safetensors", masks, params, method="LAP", sparsity=0.6)
    assert_equal(load_masks(tmp_path / "masks.safetensors", params), masks)
    assert_equal(load_masks(str(tmp_path / "masks.safetensors"), params), masks)


def test_another_kind_of_tree_reads_them_too(tmp_path: Path) -> None:
    params, masks = pair()
    save_masks(tmp_path / "masks", masks, params)
    assert_equal(load_masks(tmp_path / "masks", freeze(params)), freeze(masks))
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params))
    assert_equal(load_masks(tmp_path / "masks", shapes), masks)


def test_other_weights_and_dtypes_of_the_same_model_fit(tmp_path: Path) -> None:
    params, masks = pair()
    save_masks(tmp_path / "masks", masks, params)
    half = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.bfloat16), params)
    assert_equal(load_masks(tmp_path / "masks", half), masks)


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 63, 64, 65])
def test_every_length_is_packed_without_loss(bits: int, tmp_path: Path) -> None:
    params = {"a": {"kernel": np.ones((bits, 1), np.float32)}}
    keep = np.random.default_rng(bits).random((bits, 1)) < 0.5
    masks = {"a": {"kernel": jnp.asarray(keep)}}
    save_masks(tmp_path / "masks", masks, params)
    assert_equal(load_masks(tmp_path / "masks", params), masks)


def test_a_weight_takes_one_bit(tmp_path: Path) -> None:
    params, masks = pair([300, 400, 1000])
    save_masks(tmp_path / "masks", masks, params)
    assert (tmp_path / "masks").stat().st_size < (300 * 400 + 400 * 1000) / 8 + 2000


def test_the_file_is_safetensors_keyed_by_path(tmp_path: Path) -> None:
    params, masks = pair()
    save_masks(tmp_path / "masks", masks, params)
    stored = load_file(tmp_path / "masks")
    assert set(stored) >= {f"Dense_{i}/kernel" for i in range(3)}
    assert stored["Dense_1/kernel"].nbytes == 8  # 63 weights


def test_metadata_tells_method_sparsity_and_structure(tmp_path: Path) -> None:
    params, masks = pair()
    save_masks(tmp_path / "one", masks, params, method="LAP-forward", sparsity=0.6)
    found = read_metadata(tmp_path / "one")
    assert (found["method"], found["sparsity"]) == ("LAP-forward", 0.6)
    save_masks(tmp_path / "two", masks, params, method="LAP", sparsity={"Dense_*": 0.5})
    assert read_metadata(tmp_path / "two")["sparsity"] == {"Dense_*": 0.5}
    save_masks(tmp_path / "three", masks, params, sparsity=np.array([0.5, 0.25, 0.75]))
    assert read_metadata(tmp_path / "three")["sparsity"] == [0.5, 0.25, 0.75]
    assert read_metadata(tmp_path / "three")["method"] is None

    def checksum(name: str) -> str:
        return str(read_metadata(tmp_path / name)["structure_sha256"])

    assert checksum("one") == checksum("two") == checksum("three")
    other, other_masks = pair([5, 7, 8, 4])
    save_masks(tmp_path / "four", other_masks, other)
    assert checksum("four") != checksum("one")


def test_scalars_come_back_as_they_were_and_no_mask_is_none(tmp_path: Path) -> None:
    params, masks = pair()
    masks["Dense_1"] = {"kernel": jnp.bool_(False), "bias": jnp.bool_(True)}
    masks["Dense_2"] = {"kernel": None, "bias": jnp.int32(0)}
    save_masks(tmp_path / "masks", masks, params)
    masks["Dense_2"] = {"kernel": jnp.bool_(True), "bias": jnp.bool_(False)}
    assert_equal(load_masks(tmp_path / "masks", params), masks)
    for nothing in ({}, None, {"Dense_0": None}):
        with pytest.raises(PruningError, match="no mask"):
            save_masks(tmp_path / "nothing", nothing, params)
    with pytest.raises(PruningError, match=r"Dense_0/kernel.*float32"):
        save_masks(tmp_path / "nothing", {"Dense_0": {"kernel": jnp.full((5, 7), 0.5)}}, params)
    assert not (tmp_path / "nothing").exists()


def test_the_same_masks_are_the_same_file(tmp_path: Path) -> None:
    params, masks = pair()
    for name in ("one", "two"):
        save_masks(tmp_path / name, masks, params, method="LAP")
        params = dict(reversed(params.items()))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


# ---------------------------------------------------------------- another model


def other_model(how: str) -> tuple[Any, str]:
    params, _ = pair()
    match how:
        case "another width":
            return pair([5, 7, 8, 4])[0], r"Dense_1/.*(9|8)"
        case "a layer less":
            del params["Dense_2"]
            return params, r"Dense_2/.*missing"
        case "a layer more":
            return params | {"Dense_3": params["Dense_0"]}, r"Dense_3/.*missing"
        case "another name":
            params["Last"] = params.pop("Dense_2")
            return params, r"(Dense_2|Last)/.*missing"
    raise AssertionError(how)


@pytest.mark.parametrize("how", ["another width", "a layer less", "a layer more", "another name"])
def test_another_model_is_refused_with_the_first_difference(how: str, tmp_path: Path) -> None:
    params, masks = pair()
    save_masks(tmp_path / "masks", masks, params)
    other, message = other_model(how)
    with pytest.raises(PruningError, match=message):
        load_masks(tmp_path / "masks", other)


def test_masks_of_another_tree_are_not_saved(tmp_path: Path) -> None:
    params, _ = pair()
    _, masks = pair([5, 7, 8, 4])
    with pytest.raises(PruningError, match=r"Dense_1/kernel.*\(7, 8\).*\(7, 9\)"):
        save_masks(tmp_path / "masks", masks, params)
    assert os.listdir(tmp_path) == []
    _, masks = pair()
    del params["Dense_2"]
    with pytest.raises(PruningError, match="Dense_2/"):
        save_masks(tmp_path / "masks", masks, params)


# ---------------------------------------------------------------- damage


def fails(*_: Any, **__: Any) -> None:
    raise OSError("no space left on device")


@pytest.mark.parametrize("point", ["replace", "fsync"])
def test_a_failure_leaves_the_old_file(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, masks = pair()
    save_masks(tmp_path / "masks", masks, params, method="old")
    everything = jax.tree.map(jnp.ones_like, masks)
    with monkeypatch.context() as patch:
        patch.setattr(os, point, fails)
        with pytest.raises(OSError, match="no space"):
            save_masks(tmp_path / "masks", everything, params, method="new")
    assert_equal(load_masks(tmp_path / "masks", params), masks)
    assert read_metadata(tmp_path / "masks")["method"] == "old"
    assert os.listdir(tmp_path) == ["masks"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """The write itself breaks off in the middle, as on a full disk."""
    params, masks = pair([300, 400, 500])
    save_masks(tmp_path / "masks", masks, params, method="old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        with pytest.raises(OSError, match="large"):
            save_masks(tmp_path / "masks", masks, params, method="new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_metadata(tmp_path / "masks")["method"] == "old"
    assert_equal(load_masks(tmp_path / "masks", params), masks)
    assert os.listdir(tmp_path) == ["masks"]


def test_saving_again_replaces(tmp_path: Path) -> None:
    params, masks = pair()
    save_masks(tmp_path / "masks", masks, params, method="old")
    everything = jax.tree.map(jnp.ones_like, masks)
    save_masks(tmp_path / "masks", everything, params, method="new")
    assert_equal(load_masks(tmp_path / "masks", params), everything)
    assert os.listdir(tmp_path) == ["masks"]


READERS: list[Callable[[Path], Any]] = [
    lambda path: load_masks(path, pair()[0]),
    read_metadata,
    lambda path: load_pruned(path, pair()[0]),
]
NAMES = ["load_masks", "read_metadata", "load_pruned"]


@pytest.mark.parametrize("read", READERS, ids=NAMES)
@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(
    left: int, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    params, masks = pair()
    save_masks(tmp_path / "masks", masks, params)
    content = (tmp_path / "masks").read_bytes()
    (tmp_path / "masks").write_bytes(content[:left])
    with pytest.raises(PruningError, match="masks"):
        read(tmp_path / "masks")


class Bomb:
    exploded = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "exploded", True)


@pytest.mark.parametrize("read", READERS, ids=NAMES)
def test_a_pickle_is_refused_and_not_run(read: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "masks").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(PruningError, match="masks"):
        read(tmp_path / "masks")
    assert not Bomb.exploded


@pytest.mark.parametrize("read", READERS, ids=NAMES)
def test_someone_elses_safetensors_are_refused(read: Callable[[Path], Any], tmp_path: Path) -> None:
    save_file({"Dense_0/kernel": np.ones(3, np.uint8)}, tmp_path / "masks")
    with pytest.raises(PruningError, match=r"format is None, expected 'lap_jax"):
        read(tmp_path / "masks")


def test_a_flipped_bit_is_noticed_in_every_byte(tmp_path: Path) -> None:
    params, masks = pair([2, 3, 2])
    save_masks(tmp_path / "masks", masks, params)
    content = (tmp_path / "masks").read_bytes()
    for bit in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "masks").write_bytes(flipped)
        with pytest.raises(PruningError, match="masks"):
            load_masks(tmp_path / "masks", params)


def test_swapped_offsets_and_a_dropped_mask_are_noticed(tmp_path: Path) -> None:
    same = {name: {"kernel": np.ones((4, 4), np.float32)} for name in ("Dense_0", "Dense_1")}
    masks = {name: {"kernel": jnp.arange(16).reshape(4, 4) < int(name[-1])} for name in same}
    save_masks(tmp_path / "masks", masks, same)
    content = (tmp_path / "masks").read_bytes()
    swapped = (
        content.replace(b"[0,2]", b"[?]").replace(b"[2,4]", b"[0,2]").replace(b"[?]", b"[2,4]")
    )
    entry = b',"Dense_1/kernel":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}'
    size = int.from_bytes(content[:8], "little")
    dropped = size.to_bytes(8, "little") + content[8 : 8 + size].replace(entry, b"").ljust(size)
    for changed in (swapped, dropped + content[8 + size : -2]):
        assert changed != content
        (tmp_path / "masks").write_bytes(changed)
        with pytest.raises(PruningError, match="checksum"):
            load_masks(tmp_path / "masks", same)


def test_a_file_without_a_checksum_is_refused_with_the_way_out(tmp_path: Path) -> None:
    bits = {"Dense_0/kernel": np.zeros(5, np.uint8)}
    save_file(bits, tmp_path / "masks", {"format": "lap_jax masks 1", "structure": "{}"})
    with pytest.raises(PruningError, match=r"masks 1.*before.*checksum.*that wrote it.*save"):
        load_masks(tmp_path / "masks", pair()[0])


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_masks(tmp_path / "nowhere", pair()[0])
