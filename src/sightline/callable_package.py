"""A package that is called by its own name: ``sightline.train(recipe)`` beside ``sightline.train.loop``.

Python binds a package to its name in the package above as soon as anything imports from it, so the name cannot be a
function as well. Its module can be one that is called.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    """A module that stands for a function."""

    _place: tuple[str, str]

    def _function(self) -> Any:
        module, name = self._place
        return vars(importlib.import_module(module))[name]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function of the same name in ``sightline.api``."""
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())


def called_as(package: str, module: str, name: str) -> None:
    """Lets a package that is being imported be called as the function ``name`` of ``module``, loaded at the first
    call."""
    found = sys.modules[package]
    found.__class__ = _Called
    vars(found)["_place"] = (module, name)
