"""Eight simulated devices, quick compilation, reproducible examples, a counter of compilations.

The device count must be in the environment before jax is imported for the first time.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    # Most of the tests' time is compilation: without costly passes a third less.
    "--xla_backend_optimization_level": "0",
    "--xla_llvm_disable_expensive_passes": "true",
}
for flag, value in FLAGS.items():
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={value}".strip()

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile(
    "lap_jax", max_examples=25, deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("lap_jax")

MAPS = Path("/proc/self/maps")
ENOUGH_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Forget compiled programs when they are many, and keep them for the next module otherwise.

    Each holds memory maps, of which Linux lets a process have 65,530; other systems count none.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > ENOUGH_MAPS:
        jax.clear_caches()


@pytest.fixture
def x64() -> Iterator[None]:
    """Run one test with float64 arrays."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def count_compilations() -> Callable[[], contextlib.AbstractContextManager[list[str]]]:
    """`with count_compilations() as events:` collects one entry per program that XLA compiles."""

    @contextlib.contextmanager
    def counter() -> Iterator[list[str]]:
        events: list[str] = []
        open_ = True

        def listen(event: str, duration_secs: float, **_: str | int) -> None:
            if open_ and event.endswith("backend_compile_duration"):
                events.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield events
        finally:
            open_ = False

    return counter


SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text().splitlines())
"""Tests of more than two seconds of CPU beside other work; others like them are quick."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave long tests to `make test-slow`."""
    for item in items:
        if item.nodeid in SLOW:
            item.add_marker(pytest.mark.slow)
