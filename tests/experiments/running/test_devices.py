"""A device for each CPU core, unless the environment says how many."""

import os
from typing import Any

import jax
import pytest

from experiments.running.devices import one_device_per_core

Updates = list[tuple[str, Any]]


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> Updates:
    """What JAX is told; JAX itself, in use here already, stays as it is."""
    told: Updates = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: told.append((name, value)))
    return told


def test_the_number_in_the_environment_stays(
    updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--other --xla_force_host_platform_device_count=3")
    one_device_per_core()
    assert updates == []


@pytest.mark.parametrize("flags", ["", "--xla_cpu_enable_fast_math=false"])
def test_there_are_as_many_devices_as_cores_that_may_be_used(
    flags: str, updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    one_device_per_core()
    assert updates == [("jax_num_cpu_devices", 3)]


def test_a_system_that_knows_no_affinity_counts_all_cores(
    updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    one_device_per_core()
    assert updates == [("jax_num_cpu_devices", 6)]
