"""Implementations by name, imported when they are first used.

A room lists its own in one table; a package, the Moving Shapes wing of this one too, adds more through entry
points (`[project.entry-points."latent_shift.sources"]` in its pyproject.toml), so that no room imports them.

    SOURCES = Registry("format", "latent_shift.sources", {"folder": "package.local:FolderSource"})
    SOURCES["folder"]      # the class; ValueError naming all known formats for another name
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any


class Registry:
    """Names to "module:attribute".

    kind: what the names are of, in error messages. group: of entry points. more: "module:attribute" of
    another table, in a room above, that is read with the entry points.
    """

    def __init__(self, kind: str, group: str, own: Mapping[str, str], more: str = "") -> None:
        self.kind, self.group, self._own, self._more = kind, group, dict(own), more

    @cached_property
    def _all(self) -> dict[str, str]:
        added = {point.name: point.value for point in entry_points(group=self.group)}
        table: Mapping[str, str] = _found(self._more) if self._more else {}
        return {**self._own, **table, **{name: added[name] for name in sorted(added)}}

    def names(self) -> tuple[str, ...]:
        """All names: the room's own in their order, then added ones."""
        return tuple(self._all)

    def check(self, name: str) -> None:
        """Raise ValueError for an unknown name, listing the known ones."""
        if name not in self._all:
            raise ValueError(f"{self.kind} {name!r}: expected one of {', '.join(self._all)}")

    def __getitem__(self, name: str) -> Any:
        self.check(name)
        return _found(self._all[name])

    def __contains__(self, name: object) -> bool:
        return name in self._all


def _found(place: str) -> Any:
    """Object that "module:attribute" names."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
