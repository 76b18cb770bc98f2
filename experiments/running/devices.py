"""Devices of the experiments."""

from __future__ import annotations

import os


def one_device_per_core() -> None:
    """Show every CPU core to JAX as a device of its own, unless ``XLA_FLAGS`` says how many.

    A network on each core trains faster than one network on all cores: its layers are too small to
    be cut in pieces. To be called before JAX is first used; accelerators stay as they are.
    """
    if "--xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    import jax

    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
