"""Modules that libraries import on their way and no clip needs: they load when something of them is used.

diffusers imports `scipy.stats` and `scipy.integrate` for single schedulers, transformers `scipy.optimize` for
the losses of object detection: together more than half a second of every command.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

_LATER = {  # modules, and functions that are imported from them by name
    "scipy.stats": (),
    "scipy.integrate": (),
    "scipy.optimize": ("linear_sum_assignment",),
}


class _Later(ModuleType):
    """Stands in for a module until something of it is used; it has its name, path and specification."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(_loaded(self.__name__), name)


def import_later() -> None:
    """Let the modules named above load at their first use; those that are loaded stay so."""
    for name, functions in _LATER.items():
        parent, _, child = name.rpartition(".")
        if name in sys.modules or importlib.util.find_spec(parent) is None:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        module = _Later(name)
        module.__spec__, module.__file__ = spec, spec.origin
        module.__path__ = list(spec.submodule_search_locations or [])
        vars(module).update({function: _calls(name, function) for function in functions})
        sys.modules[name] = module
        setattr(sys.modules[parent], child, module)


def _calls(module: str, function: str) -> Any:
    """A function that loads its module when it is called."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        return getattr(_loaded(module), function)(*arguments, **keywords)

    return call


def _loaded(name: str) -> ModuleType:
    if isinstance(sys.modules.get(name), _Later):
        sys.modules.pop(name, None)  # another thread may have done so meanwhile
    return importlib.import_module(name)
