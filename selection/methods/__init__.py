"""Set methods, one file each: they choose among the samples that are left as a whole, not one by one.

Every module here is imported, so adding a file is all that a new method needs.
"""

import importlib
import pkgutil

from selection.registry import METHODS

__all__ = ["METHODS"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
