"""What each command does: look first, show, then write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lap_jax import (
    METHODS,
    Small,
    apply_masks,
    load_masks,
    lookahead_masks,
    save_masks,
    save_pruned,
    summarize,
)
from lap_jax.cli import asked
from lap_jax.cli.checkpoints import Checkpoint, form_of, load, write, write_file
from lap_jax.cli.commands import Command, Diff, Inspect, Prune, Shrink
from lap_jax.cli.differing import differences
from lap_jax.cli.errors import BadInput
from lap_jax.cli.findings import Findings, Table, Value, as_json, as_text
from lap_jax.cli.looking import (
    Loaded,
    facts_of,
    heard,
    layers_table,
    left_out,
    loaded,
    not_finite,
    picture_of,
    small_of,
    unread_of,
    warnings_of,
    work_facts,
    zeros_as_masks,
)
from lap_jax.cli.models import paths_of, pruned_arrays
from lap_jax.cli.page import page


def run(command: Command, line: str) -> int:
    """Do what a command says; return the exit status.

    All is computed and shown before anything is written.

    Args:
      command: what to do.
      line: that was typed, for the page.

    Raises:
      BadInput, PruningError, OSError: if something is of no use; nothing is written.
    """
    targets = _targets(command)
    _check_targets(command, targets)
    writers: dict[Path, Any] = {}
    match command:
        case Inspect():
            findings = inspected(command)
        case Prune():
            findings, writers = pruned(command)
        case Shrink():
            findings, writers = shrunk(command)
        case Diff():
            findings = differences(
                load(command.a), load(command.b), command.tolerance, command.zeros
            )
    findings = replace(findings, warnings=tuple(dict.fromkeys(findings.warnings)))
    stopped = command.strict and bool(findings.warnings)
    if not command.json:
        print(as_text(findings))
    written: list[Path] = []
    if not stopped and not (isinstance(command, (Prune, Shrink)) and command.dry_run):
        for path, save in writers.items():
            save()
            written.append(path)
    findings = replace(findings, written=tuple(written))
    if command.report is not None:
        write_file(command.report, page(findings, line).encode())
        findings = replace(findings, written=(*written, command.report))
    if command.json:
        print(as_json(findings))
    else:
        for path in findings.written:
            print(f"wrote {path}")
    return 1 if stopped or findings.differs else 0


# ---------------------------------------------------------------- where to


def _targets(command: Command) -> dict[str, Path]:
    names = {Prune: ("out", "masks", "compact"), Shrink: ("out", "program")}.get(type(command), ())
    found = {name: getattr(command, name) for name in (*names, "report")}
    return {name: path for name, path in found.items() if path is not None}


def _check_targets(command: Command, targets: dict[str, Path]) -> None:
    """Refuse what cannot be written before anything is computed."""
    if isinstance(command, (Prune, Shrink)):
        asked_for = [name for name in targets if name != "report"]
        if not asked_for and not command.dry_run:
            raise BadInput("nothing to write: give --out, or --dry-run to only look")
    if "out" in targets:
        form_of(targets["out"])
    for name in ("masks", "compact"):
        if name in targets and targets[name].suffix != ".safetensors":
            raise BadInput(f"--{name} is {str(targets[name])!r}: expected a name in .safetensors")
    seen: dict[Path, str] = {}
    for name, path in targets.items():
        place = path.resolve()
        if place in seen:
            raise BadInput(f"--{name} and --{seen[place]} are the same file, {str(path)!r}")
        seen[place] = name
        if not place.parent.is_dir():
            raise BadInput(f"--{name}: there is no folder {str(path.parent)!r}")
        if path.exists() and not command.overwrite:
            raise BadInput(f"--{name}: {str(path)!r} is there already: choose another name, or "
                           "--overwrite")  # fmt: skip
        if path.is_dir() and (name != "out" or not (path / "_METADATA").exists()):
            raise BadInput(f"--{name}: {str(path)!r} is a folder, and no checkpoint of Orbax")


# ---------------------------------------------------------------- inspect


def inspected(command: Inspect) -> Findings:
    """Return what is in a checkpoint."""
    checkpoint = load(command.checkpoint)
    told = list(not_finite(checkpoint.arrays))
    facts = _file_facts(checkpoint)
    if command.model is None:
        moments = [name for name in checkpoint.arrays if "opt_state" in name.split("/")]
        own = {name: array for name, array in checkpoint.arrays.items() if name not in moments}
        facts["numbers"] = sum(array.size for array in own.values())
        if moments:
            facts["arrays of an optimizer, left out"] = len(moments)
        kernels = {name: array != 0 for name, array in own.items() if array.ndim >= 2}
        if not kernels:
            return _findings(command, facts, (), told)
        summary = summarize(kernels)
        facts |= facts_of(summary)
        del facts["neurons"], facts["dead neurons"]  # what an axis is, only a model tells
        table = layers_table(summary)
        rows = [row[:5] for row in table.rows]
        return _findings(
            command, facts, (Table("leaves", ("leaf", *table.header[1:5]), rows),), told
        )
    model = loaded(checkpoint, command.model)
    masks = zeros_as_masks(model.filled.variables)
    summary = summarize(masks, model.graph)
    facts |= {"parameters": model.parameters, **facts_of(summary)}
    if model.filled.others:
        facts["arrays that are not the model's"] = len(model.filled.others)
    if not command.skip_work:
        facts |= _work(model, None, told)
    told += [*warnings_of(model.graph, summary), *unread_of(model.graph)]
    return _findings(command, facts, (layers_table(summary),), told, model)


def _file_facts(checkpoint: Checkpoint) -> dict[str, Value]:
    return {
        "checkpoint": str(checkpoint.path),
        "form": checkpoint.form,
        "bytes": checkpoint.size,
        "arrays": len(checkpoint.arrays),
    }


def _work(model: Loaded, masks: Any, told: list[str]) -> dict[str, Value]:
    small = small_of(model, masks, told)
    if small is not None:
        told += [f"computed at full size: {name} at {line}" for name, line in small.at_full_size]
    return work_facts(small, model.given.inputs)


def _findings(
    command: Command, facts: dict[str, Value], tables: tuple[Table, ...], told: Sequence[str],
    model: Loaded | None = None,
) -> Findings:  # fmt: skip
    assert not isinstance(command, Diff)
    drawn = picture_of(model.graph) if model and command.report is not None else ""
    name = type(command).__name__.lower()
    return Findings(name, str(command.checkpoint), facts, tables, tuple(told), picture=drawn)


# ---------------------------------------------------------------- prune


def pruned(command: Prune) -> tuple[Findings, dict[Path, Any]]:
    """Return what pruning leaves, and what writes it."""
    levels = asked.sparsity(command.sparsity)
    scope = asked.scope(
        command.scope, command.normalize, command.unit, command.group, command.multiple_of
    )
    checkpoint = load(command.checkpoint)
    model = loaded(checkpoint, command.model)
    graph = model.graph.pin(*command.pin) if command.pin else model.graph
    levels = asked.distributed(levels, command.distribution, graph)
    told: list[str] = []
    variables = model.filled.variables
    with heard(told):
        masks = lookahead_masks(
            variables, graph, levels, method=METHODS[command.method], scope=scope,
            effective=command.effective or METHODS[command.method].effective,
            key=jax.random.key(command.seed),
        )  # fmt: skip
    summary = summarize(masks, graph)
    facts = _file_facts(checkpoint) | {"parameters": model.parameters, **facts_of(summary)}
    if not command.skip_work:
        facts |= _work(model, masks, told)
    told += [*warnings_of(graph, summary), *left_out(model.filled.others)]
    writers: dict[Path, Any] = {}
    by_path = paths_of(masks)
    arrays = pruned_arrays(checkpoint, model.filled.names, by_path)
    if command.out is not None:
        out = command.out
        writers[out] = lambda: write(out, arrays, checkpoint.notes)
    if command.masks is not None:
        kept = command.masks
        writers[kept] = lambda: save_masks(
            kept, masks, variables, method=command.method, sparsity=levels
        )
    if command.compact is not None:
        compact = command.compact
        writers[compact] = lambda: save_pruned(compact, apply_masks(variables, masks), masks)
    return _findings(command, facts, (layers_table(summary),), told, model), writers


# ---------------------------------------------------------------- shrink


def shrunk(command: Shrink) -> tuple[Findings, dict[Path, Any]]:
    """Return what shrinking leaves, and what writes it."""
    checkpoint = load(command.checkpoint)
    model = loaded(checkpoint, command.model)
    variables, told = model.filled.variables, list[str]()
    masks = load_masks(command.masks, variables) if command.masks is not None else None
    if masks is None and not command.fold:
        masks = zeros_as_masks(variables)
    small = small_of(
        model, masks, told, fold=command.fold, unstack=command.unstack,
        multiple_of=command.multiple_of, tolerance=command.tolerance,
    )  # fmt: skip
    if small is None:
        raise BadInput(told[0].partition(": ")[2])
    told += [f"computed at full size: {name} at {line}" for name, line in small.at_full_size]
    told += left_out(model.filled.others)
    before, after = small.parameters
    if before == after:
        told.append(
            "nothing is left out: no weights are zero whose neurons could go (lap-jax prune)"
        )
    facts = _file_facts(checkpoint) | {
        "parameters": before,
        "parameters if shrunk": after,
        "multiply-adds": small.work.before,
        "multiply-adds if shrunk": small.work.after,
        "largest difference": f"{small.difference:.3g}",
    }
    rows: list[tuple[Value, ...]] = [
        (path, each.shape, each.small, float(_numbers(each.small) / max(_numbers(each.shape), 1)))
        for path, each in small.kept.items()
    ]
    table = Table("leaves", ("leaf", "before", "after", "left"), rows)
    writers: dict[Path, Any] = {}
    if command.out is not None:
        out, leaves = command.out, paths_of(small.variables)
        names = _names_of_layers(small, model.filled.names)
        arrays = {name: np.asarray(leaves[path]) for path, name in names.items()}
        writers[out] = lambda: write(out, arrays, checkpoint.notes)
    if command.program is not None:
        program, content = command.program, _program(small, model)
        writers[program] = lambda: write_file(program, content)
    return _findings(command, facts, (table,), told, model), writers


def _names_of_layers(small: Small, names: Mapping[str, str]) -> dict[str, str]:
    """Return the names in the file by path, those of layers that were taken apart among them."""
    found = dict(names)
    for level in small.stacks:
        found = {
            own: name + own.removeprefix(path)
            for path, name in found.items()
            for own in level.names(path)
        }
    return found


def _numbers(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _program(small: Any, model: Loaded) -> bytes:
    """Return the small network as a program of its inputs alone, weights included."""
    try:
        from jax import export

        exported = export.export(jax.jit(lambda *inputs: small.apply(small.variables, *inputs)))
        return bytes(exported(*model.given.inputs).serialize())
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise BadInput(f"--program: {type(error).__name__}: {text}") from error
