"""The networks, as Flax Linen modules.

All are called ``module.apply(variables, x, train)`` with ``x`` of shape ``[batch, h, w, channels]``
and return float32 logits ``[batch, classes]``. Parameters and running statistics are float32; the
layers but the last compute in the module's ``dtype``. A network with batch norms needs
``mutable=["batch_stats"]`` where ``train`` is True; ``train`` changes nothing in the others.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from experiments.networks.setting import Setting


def _found() -> dict[str, Setting]:
    """Collect ``SETTINGS`` of every file of this folder: a new network is a new file."""
    files = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
    return {
        name: setting for file in files for name, setting in getattr(file, "SETTINGS", {}).items()
    }


MODELS = _found()

PAPER_MODELS = {name: setting for name, setting in MODELS.items() if setting.table}
"""The paper's own networks, with the levels of its tables."""
