"""One version, told by the package, its metadata and its public name."""

import importlib.metadata
import re

import lap_jax
from lap_jax.version import VERSION


def test_the_version_is_told_once() -> None:
    assert lap_jax.__version__ == VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab]|rc|\.dev)?\d*", VERSION)


def test_the_build_reads_it_from_there() -> None:
    assert importlib.metadata.version("lap_jax") == VERSION
