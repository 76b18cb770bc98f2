"""The package as a whole: its names, who may import whom, and the examples that it shows."""

import ast
import doctest
import importlib
import itertools
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lap_jax
from experiments.networks.setting import Setting
from lap_jax.tracing import moving

ROOT = Path(__file__).resolve().parents[1]
CLI = [ROOT / "lap_jax" / "__main__.py", *sorted((ROOT / "lap_jax" / "cli").rglob("*.py"))]
"""The command line: a room of its own, which uses what everybody may use."""
LIBRARY = sorted(set((ROOT / "lap_jax").rglob("*.py")) - set(CLI))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
PROMISED = {
    "IDENTITY",
    "METHODS",
    "Graph",
    "KeepPrunedState",
    "LayerSpec",
    "Method",
    "Norm",
    "PruningError",
    "apply_masks",
    "chain",
    "keep_pruned",
    "load_masks",
    "lookahead_masks",
    "lookahead_scores",
    "paper_sparsity",
    "read_metadata",
    "save_masks",
    "summarize",
}


FLOORS: list[set[str]] = [
    {"errors", "version", "batching", "tables"},
    {"paths", "meshes", "packing", "integers"},
    {"files", "retraining", "recalibration", "comparison"},
    {"graph"},
    {"scoring"},
    {"selection", "tracing", "report"},
    {"methods", "checks", "shrinking", "repairing"},
    {"network"},
    {"effective", "neurons", "competing"},
    {"passes"},
    {"pruning"},
    {"gradual"},
]
"""Modules and folders of the library: each imports from floors below its own alone."""


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it, for types alone too."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module(path: Path) -> str:
    """Dotted name of a file of the library; a folder's own for its ``__init__.py``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(path: Path) -> set[str]:
    """The library's own modules that one of them imports."""
    own = {module(file) for file in LIBRARY}
    found = set()
    for name in imported(path):
        if name.split(".")[0] != "lap_jax":
            continue
        parent = name.rpartition(".")[0]
        found.add(name if name in own else parent)
        assert found <= own, f"{path.name} imports {name}"
    assert "lap_jax" not in found, f"{path.name} imports the package that it belongs to"
    return found


def test_public_names_are_listed_documented_and_there() -> None:
    assert set(lap_jax.__all__) >= PROMISED
    assert len(set(lap_jax.__all__)) == len(lap_jax.__all__)
    for name in lap_jax.__all__:
        thing = getattr(lap_jax, name)
        if callable(thing):
            assert thing.__doc__, name
            assert thing.__module__.startswith("lap_jax."), name


def test_nothing_else_is_public() -> None:
    files = [*LIBRARY, *CLI]
    modules = {module(file).split(".")[1] for file in files if module(file) != "lap_jax"}
    shown = {name for name in vars(lap_jax) if not name.startswith("_")}
    assert shown - modules - set(lap_jax.__all__) <= {"VERSION"}


def test_library_stands_on_jax_optax_numpy_and_safetensors() -> None:
    allowed = {"jax", "optax", "numpy", "safetensors", "lap_jax", *sys.stdlib_module_names}
    for path in LIBRARY:
        packages = {name.split(".")[0] for name in imported(path)}
        assert packages <= allowed, f"{path.name}: {packages - allowed}"
        assert not packages & {"pickle", "marshal", "shelve"}, path.name


def test_imports_of_the_library_have_no_circle() -> None:
    waiting = {module(path): inside(path) for path in LIBRARY}
    while waiting:
        free = [name for name, needs in waiting.items() if not needs & set(waiting)]
        assert free, f"a circle among {sorted(waiting)}"
        for name in free:
            del waiting[name]


def test_lower_rooms_never_import_upper_ones() -> None:
    """A room imports from rooms below it alone; beside each other stand those of one floor."""
    level = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    for path in LIBRARY:
        if module(path) == "lap_jax":
            continue
        room = module(path).split(".")[1]
        for name in inside(path):
            other = name.split(".")[1]
            assert other == room or level[other] < level[room], f"{module(path)} imports {name}"


def test_each_module_has_its_test_file() -> None:
    for path in [*LIBRARY, *CLI]:
        *rooms, name = path.relative_to(ROOT / "lap_jax").with_suffix("").parts
        if name not in ("__init__", "__main__"):
            found = (ROOT / "tests").joinpath(*rooms, f"test_{name}.py")
            assert found.exists(), f"{module(path)} has no {found.relative_to(ROOT)}"


@pytest.mark.parametrize("path", [*LIBRARY, *CLI], ids=module)
def test_files_are_short_enough_to_read(path: Path) -> None:
    length = len(path.read_text().splitlines())
    assert length <= 450, f"{length} lines"


def test_experiments_and_the_command_line_use_public_names_only() -> None:
    assert EXPERIMENTS
    assert len(CLI) > 2
    for path in [*EXPERIMENTS, *CLI]:
        for name in imported(path):
            package, *rest = name.split(".")
            if package == "lap_jax" and not (path in CLI and rest[0] == "cli"):
                rest = [] if rest == ["__version__"] else rest
                assert not rest or (len(rest) == 1 and rest[0] in lap_jax.__all__), (
                    f"{path.relative_to(ROOT)} imports {name}"
                )
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                public = node.attr in lap_jax.__all__ or node.attr == "__version__"
                assert node.value.id != "lap_jax" or public, (
                    f"{path.relative_to(ROOT)} uses lap_jax.{node.attr}"
                )


def test_the_command_line_stands_on_tyro_and_what_the_library_stands_on() -> None:
    allowed = {"tyro", "jax", "numpy", "safetensors", "lap_jax", *sys.stdlib_module_names}
    for path in CLI:
        packages = {name.split(".")[0] for name in imported(path)}
        assert packages <= allowed, f"{path.name}: {packages - allowed}"
        assert not packages & {"pickle", "marshal", "shelve"}, path.name


def test_library_knows_no_experiments() -> None:
    for path in [*LIBRARY, *CLI]:
        assert not any(name.startswith(("experiments", "flax")) for name in imported(path))


@pytest.mark.parametrize("path", LIBRARY, ids=module)
def test_examples_in_docstrings_run(path: Path) -> None:
    found = doctest.testmod(
        importlib.import_module(module(path)), extraglobs={"np": np, "jnp": jnp, "jax": jax}
    )
    assert found.failed == 0


def blocks_of(file: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)


class Network(nn.Module):
    """The model of those parameters."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for width in (4, 6, 6, 6):
            norm = nn.BatchNorm(use_running_average=not train)
            x = nn.relu(norm(nn.Conv(width, (3, 3))(x)))
        x = nn.max_pool(x, (4, 4), (4, 4)).reshape(x.shape[0], -1)
        for width in (12, 10):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(3)(x)


def model() -> dict[str, Any]:
    """What the README's examples take as given: parameters of a small Flax model."""
    rng = np.random.default_rng(0)
    shapes = {
        "Conv_0": (3, 3, 1, 4),
        "Conv_1": (3, 3, 4, 6),
        "Conv_2": (3, 3, 6, 6),
        "Conv_3": (3, 3, 6, 6),
        "Dense_0": (2 * 2 * 6, 12),
        "Dense_1": (12, 10),
        "Dense_2": (10, 3),
    }
    params: Any = {
        name: {
            "kernel": jnp.asarray(rng.normal(size=shape), jnp.float32),
            "bias": jnp.zeros(shape[-1]),
        }
        for name, shape in shapes.items()
    }
    stats = {}
    for i, (name, shape) in enumerate(itertools.islice(shapes.items(), 4)):
        del name
        params[f"BatchNorm_{i}"] = {"scale": jnp.ones(shape[-1]), "bias": jnp.zeros(shape[-1])}
        stats[f"BatchNorm_{i}"] = {"mean": jnp.zeros(shape[-1]), "var": jnp.ones(shape[-1])}
    return {
        "params": params,
        "batch_stats": stats,
        "variables": {"params": params, "batch_stats": stats},
        "model": Network(),
        "images": jnp.ones((2, 8, 8, 1)),
    }


def test_the_readmes_examples_run_in_order_as_pasted(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of("README.md")
    assert len(blocks) >= 2
    names: dict[str, Any] = {"__name__": "pasted"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, python block {number}", "exec"), names)
        if not number:
            before, after = names["small"].parameters
            assert after < 0.8 * before
            assert names["error"](names["small"].apply, names["retrained"]) < 0.15


def test_what_contributors_are_shown_runs() -> None:
    given = model()
    graph = lap_jax.trace(given["model"], given["variables"], given["images"])
    names = vars(moving) | {"lap_jax": lap_jax, "nn": nn, "Sequence": Sequence, "Setting": Setting}
    names |= {"params": given["variables"], "gradients": given["params"], "graph": graph}
    for number, block in enumerate(blocks_of("CONTRIBUTING.md")):
        exec(compile(block, f"CONTRIBUTING.md, python block {number}", "exec"), names)
    assert lap_jax.summarize(names["masks"], graph).total.sparsity == pytest.approx(0.9, abs=0.01)
    images = jnp.ones((1, 8, 8, 1))
    network = names["SETTINGS"]["two"].build(10, "relu")
    variables = network.init(jax.random.key(0), images)
    assert lap_jax.chain(variables, names["SETTINGS"]["two"].chain).names == ("Dense_0", "Dense_1")
    assert [names["_rev"], *names["MOVING"]] == [names["MOVING"]["rev"], "rev"]


def test_the_first_example_goes_all_the_way() -> None:
    first = blocks_of("README.md")[0]
    for name in ("trace", "lookahead_masks", "keep_pruned", "shrink"):
        assert name in first


@pytest.mark.slow
def test_every_name_in_the_list_of_long_tests_is_a_test() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    listed = (ROOT / "tests/slow.txt").read_text().splitlines()
    assert set(listed) <= set(done.stdout.splitlines())
    assert listed == sorted(set(listed))
