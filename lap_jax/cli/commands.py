"""What the command line takes: each command and its flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lap_jax import METHODS

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = tyro.extras.literal_type_from_choices(METHODS)


@dataclass(frozen=True, kw_only=True)
class Common:
    """Flags of every command."""

    json: bool = False
    """Print one JSON object in place of tables."""
    strict: bool = False
    """Exit with status 1 where there is a warning, and write nothing."""
    report: Path | None = None
    """An HTML page to write, which opens without a network."""
    overwrite: bool = False
    """Replace files that are there already."""
    debug: bool = False
    """Show where an error comes from."""


@dataclass(frozen=True, kw_only=True)
class Inspect(Common):
    """Say what is in a checkpoint: parameters, sparsity, dead neurons, effective weights."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A file (safetensors, msgpack of Flax, masks or pruned networks of lap_jax) or a folder of
    Orbax."""
    model: str | None = None
    """module:function; the function returns (model, inputs). Without it, leaves are counted one
    by one, and nothing is known of neurons and paths."""
    skip_work: bool = False
    """Do not count multiply-adds, which computes the network on its inputs."""


@dataclass(frozen=True, kw_only=True)
class Prune(Common):
    """Prune a checkpoint: zeros in place of weights, or of whole neurons."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A file or a folder of Orbax."""
    model: str
    """module:function; the function returns (model, inputs)."""
    sparsity: tuple[str, ...]
    """Fraction removed: 0.9, or by name or pattern: 'Conv_*=0.5' '*=0.9'."""
    distribution: Literal["uniform", "erk", "ideal-gas"] = "uniform"
    """Where one number of --sparsity goes: to all layers alike; or, of the whole network, by the
    rule of Erdős, Rényi and kernel, or by ideal gas quotas."""
    method: MethodName = "LAP"
    """How weights are scored."""
    scope: Literal["layer", "global"] = "layer"
    """What competes: the weights of each layer, or those of all layers."""
    normalize: Literal["norm", "lamp", "none"] = "norm"
    """How scores of different layers are compared, with --scope global."""
    unit: str = "weight"
    """What goes as a whole: weight, channel, input-channel, neuron, or a block such as 4x4."""
    group: str | None = None
    """Keep so many of each so many weights along the inputs: 2:4."""
    multiple_of: int = 1
    """With --unit neuron, keep channels in multiples of this number."""
    effective: bool = False
    """Keep weights on paths from input to output alone, as far as there are enough."""
    pin: tuple[str, ...] = ()
    """Names or patterns of layers to leave whole."""
    seed: int = 0
    """Of random scores."""
    out: Path | None = None
    """The pruned checkpoint: a name in .safetensors or .msgpack, or a folder for Orbax."""
    masks: Path | None = None
    """The masks, one bit a weight (lap_jax.load_masks reads them)."""
    compact: Path | None = None
    """Kept weights and masks in few bytes (lap_jax.load_pruned reads them)."""
    dry_run: bool = False
    """Show what would happen and write no checkpoint."""
    skip_work: bool = False
    """Do not count multiply-adds, which computes the network on its inputs."""


@dataclass(frozen=True, kw_only=True)
class Shrink(Common):
    """Make a pruned checkpoint really smaller: leave out what is zero, or what nobody reads."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A file or a folder of Orbax; zeros in it count as pruned."""
    model: str
    """module:function; the function returns (model, inputs)."""
    masks: Path | None = None
    """Masks to apply first, from `lap-jax prune --masks`."""
    fold: bool = True
    """Compute constants once and for all; --no-fold leaves a network that trains as the masked one
    does, and takes --masks."""
    unstack: bool = False
    """Let each layer of a scanned stack keep its own neurons: the checkpoint then holds
    name/0, name/1, ... in place of a stack."""
    multiple_of: int = 1
    """Leave as many dead neurons as make widths multiples, which hardware is quicker with: 8 on
    CPUs, 128 on accelerators."""
    tolerance: float = 1e-5
    """Largest difference to the masked network, relative to the largest number of an output."""
    out: Path | None = None
    """The small checkpoint: a name in .safetensors or .msgpack, or a folder for Orbax."""
    program: Path | None = None
    """The small network's program (jax.export), which runs without the model's code."""
    dry_run: bool = False
    """Show what would happen and write no checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Diff(Common):
    """Compare two checkpoints leaf by leaf: exit with status 1 where they differ."""

    a: Annotated[Path, tyro.conf.Positional]
    """A file or a folder of Orbax."""
    b: Annotated[Path, tyro.conf.Positional]
    """Another."""
    tolerance: float = 0.0
    """Largest difference of two numbers that counts as none."""
    zeros: bool = False
    """Compare only where there are zeros."""


Command = Inspect | Prune | Shrink | Diff
