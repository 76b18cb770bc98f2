"""Modules of a checkout, imported from where they lie."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any
from unittest import mock

DATA = ("tensorflow", "tensorflow.io", "tensorflow.io.gfile", "tensorflow_datasets",
        "flax.metrics.tensorboard", "clu", "clu.metrics", "ml_collections")  # fmt: skip
"""What such modules import to read data, settings and log, and their models do without."""


def imported(folder: Path, name: str) -> Any:
    """Import a module from a folder, and forget it and its neighbours again.

    Other folders have modules of the same names. Packages for data that are not installed are
    replaced by stand-ins.
    """
    absent = {module: _stand_in(module) for module in DATA if not _is_there(module)}
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    sys.modules.update(absent)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        root = name.partition(".")[0]
        for other in set(sys.modules) - before:
            file = getattr(sys.modules[other], "__file__", None)
            own = isinstance(file, str) and file.startswith(str(folder))
            if other in absent or own or other.partition(".")[0] == root:  # folders have no file
                del sys.modules[other]


def _stand_in(module: str) -> Any:
    found = mock.MagicMock()
    found.__spec__ = importlib.machinery.ModuleSpec(module, None)
    return found


def _is_there(module: str) -> bool:
    # Flax has its own module for TensorBoard, which does not work without that.
    package = module.rpartition(".")[2] if module.startswith("flax.") else module.split(".")[0]
    return importlib.util.find_spec(package) is not None
