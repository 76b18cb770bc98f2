"""Flags and their defaults."""

from dataclasses import fields
from pathlib import Path

import tyro

from lap_jax import METHODS, Scope
from lap_jax.cli.commands import Common, Diff, Inspect, Prune, Shrink

KINDS = (Inspect, Prune, Shrink, Diff)


def test_every_command_takes_the_common_flags_and_says_what_it_does() -> None:
    for kind in KINDS:
        assert issubclass(kind, Common)
        assert kind.__doc__


def test_defaults_are_those_of_the_library() -> None:
    found = tyro.cli(Prune, args=["x", "--model", "a:b", "--sparsity", "0.5"])
    assert found.checkpoint == Path("x")
    assert found.method == "LAP"
    assert Scope(found.scope, found.normalize, multiple_of=found.multiple_of) == Scope()
    assert [field.name for field in fields(Prune)][:5] == [field.name for field in fields(Common)]


def test_every_method_of_the_paper_is_a_choice() -> None:
    for name in METHODS:
        arguments = ["x", "--model", "a:b", "--sparsity", "0.5", "--method", name]
        assert tyro.cli(Prune, args=arguments).method == name
