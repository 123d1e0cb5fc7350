"""The mutation table itself; `python -m tests.mutations` runs it."""

from __future__ import annotations

from tests import mutations, native_build, native_mutations


def test_every_mutation_stands_once_in_the_code() -> None:
    assert not mutations.stale()
    assert not native_mutations.stale(native_build.ROOT / "backends")


def test_every_mutation_changes_something() -> None:
    for mutation in mutations.MUTATIONS:
        assert mutation.old != mutation.new
    names = [mutation.name for mutation in mutations.MUTATIONS]
    assert len(set(names)) == len(names)
