"""Scores, one file each. Every module here is imported, so adding a file is all that a new score needs."""

import importlib
import pkgutil

from selection.registry import SCORES, get_score

__all__ = ["SCORES", "get_score"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
