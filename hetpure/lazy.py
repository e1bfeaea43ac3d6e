"""Imports when they are needed, and quick ones: commands spend their first seconds on them."""

import ast
import gc
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``, for the imports in its ``if TYPE_CHECKING:`` block.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.
    """
    blocks = [node.body for node in ast.parse(Path(file).read_text()).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block if isinstance(node, ast.ImportFrom)]
    modules = {alias.name: str(node.module) for node in imports for alias in node.names}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_quickly(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *modules})


def import_quickly(name: str) -> ModuleType:
    """Imports a module without garbage collection, which takes a quarter of the time and finds next to nothing.

    Torch, Lightning and diffusers make a million objects that stay, and Python looks through them again and again.
    """
    if name in sys.modules:
        return import_module(name)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        if was_enabled:
            if not gc.get_freeze_count():  # what is new becomes old at once, and is still collected as all else is
                gc.freeze()
                gc.unfreeze()
            gc.enable()
