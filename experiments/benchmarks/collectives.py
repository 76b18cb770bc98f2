"""What devices exchange, read from the text of a compiled program."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
"""Instructions that move data between devices."""


class Collective(NamedTuple):
    """An instruction that moves data between devices."""

    kind: str
    """One of `KINDS`."""
    shape: str
    """The largest array of its result, per device, such as ``f32[512,64]``."""
    bytes: int
    """Size of its operands, per device."""
    times: int | None
    """How often it runs in one call; None: inside a loop of unknown length."""

    @property
    def runs(self) -> int:
        """How often it runs in one call at the least: once in a loop of unknown length."""
        return 1 if self.times is None else self.times

    @property
    def total(self) -> int:
        """Bytes that a device puts in, in one call."""
        return self.bytes * self.runs


def collectives(hlo: str) -> list[Collective]:
    """List the collectives of a compiled program, largest total first.

    Loops count as often as the compiler says that they turn, and every branch of a conditional
    counts, so totals are upper bounds except for loops whose length is unknown.

    Args:
      hlo: the text of a compiled program, ``compiled.as_text()``.
    """
    computations = _computations(hlo)
    types = {i.name: i.type for body in computations.values() for i in body}
    times = _times(computations)
    found = []
    for name, body in computations.items():
        for instruction in body:
            kind = instruction.opcode.removesuffix("-start")
            if kind in KINDS:
                arrays = _arrays(instruction.type)
                size = sum(
                    array_bytes(array)
                    for operand in instruction.operands
                    for array in _arrays(types[operand])
                )
                found.append(Collective(kind, max(arrays, key=elements), size, times(name)))
    return sorted(found, key=lambda collective: -collective.total)


def elements(array: str) -> int:
    """Return how many numbers an array such as ``f32[512,64]`` holds."""
    return math.prod(int(n) for n in array.partition("[")[2].rstrip("]").split(",") if n)


def array_bytes(array: str) -> int:
    """Return the size of an array such as ``f32[512,64]``."""
    digits = re.search(r"\d+", array.partition("[")[0])
    return math.ceil(elements(array) * (int(digits[0]) if digits else 8) / 8)


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: list[str]
    calls: list[tuple[str, int | None]]
    """Computations that it runs, and how often."""


_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][a-z0-9\-]*)\((.*)$")
_CALLEE = re.compile(
    r"\b(?:body|condition|calls|to_apply|\w+_computations?)=(\{[^}]*\}|%?[\w.\-]+)"
)


def _computations(hlo: str) -> dict[str, list[_Instruction]]:
    """Read the text; the computation where the program starts is named ``""``."""
    computations: dict[str, list[_Instruction]] = {}
    body: list[_Instruction] = []
    for line in hlo.splitlines():
        if header := _HEADER.match(line):
            body = computations.setdefault("" if header[1] else header[2], [])
        elif instruction := _INSTRUCTION.match(line):
            name, type_, opcode, rest = instruction.groups()
            operands = re.split(r"\)(?:,|$)", rest, maxsplit=1)[0]
            turns: int | None = 1
            if opcode == "while":
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
                turns = int(known[1]) if known else None
            callees = [
                name.lstrip("%")
                for match in _CALLEE.finditer(rest)
                for name in re.findall(r"%?[\w.\-]+", match[1])
            ]
            body.append(
                _Instruction(
                    name, type_, opcode, re.findall(r"%([\w.\-]+)", operands),
                    [(callee, turns) for callee in callees],
                )
            )  # fmt: skip
    return computations


def _times(computations: Mapping[str, list[_Instruction]]) -> Callable[[str], int | None]:
    """Return a function that says how often a computation runs."""
    callers: dict[str, list[tuple[str, int | None]]] = {name: [] for name in computations}
    for name, body in computations.items():
        for instruction in body:
            for callee, turns in instruction.calls:
                if callee in callers:
                    callers[callee].append((name, turns))

    @cache
    def times(name: str) -> int | None:
        if not name:
            return 1
        total = 0
        for caller, turns in callers[name]:
            of_caller = times(caller)
            if of_caller is None or turns is None:
                return None
            total += of_caller * turns
        return total

    return times


def _arrays(type_: str) -> list[str]:
    """List the arrays of a type, ``(f32[2]{0}, u32[])``, without their layouts."""
    return re.findall(r"\b[a-z][a-z0-9]*\[[\d,]*\]", type_) or ["token[0]"]
