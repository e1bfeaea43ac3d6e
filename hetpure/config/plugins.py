"""Code from outside this package: ``my.py:Class``, ``package.module:Class``, and entry points of installed packages.

Code is imported only where the user names it, on the command line or in a config that is named there.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from hetpure.config import resolve_path
from hetpure.errors import ConfigError
from hetpure.lazy import import_quickly

FORMS = "FILE.py:NAME or package.module:NAME"


def is_target(name: Any) -> bool:
    """Whether a config's name is code from outside this package."""
    return isinstance(name, str) and ":" in name


def entry_points(group: str) -> dict[str, str]:
    """``package.module:NAME`` by the names under which installed packages offer it."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=group)}


def load(target: str, key: str = "name") -> Any:
    """The class or function that a target names.

    Args:
        target: ``FILE.py:NAME`` or ``package.module:NAME``. A file is imported once for each content that it has.
        key: of the config, for messages.

    Raises:
        ConfigError: where it cannot be imported, or has no such name.
    """
    module_name, _, name = target.rpartition(":")
    try:
        if module_name.endswith(".py"):
            module = _import_file(resolve_path(module_name))
        else:
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            module = import_quickly(module_name)
    except Exception as error:  # a user's file may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(key, f"{target}: cannot import {module_name}: {reason}") from error
    try:
        return getattr(module, name)
    except AttributeError:
        raise ConfigError(key, f"{target}: {module_name} has no {name}") from None


def target_of(cls: type) -> str:
    """The target that names a class."""
    module = cls.__module__
    if module.startswith(_PREFIX):
        module = inspect.getfile(cls)
    return f"{module}:{cls.__qualname__}"


def code_hash(target: str) -> str:
    """A hash of the file that a target names; what the file imports is not in it."""
    file = source_file(target.rpartition(":")[0])
    content = file.read_bytes() if file else inspect.getsource(load(target)).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def source_file(module: str) -> Path | None:
    """The file of ``FILE.py`` or ``package.module``, which is not imported; None where there is none."""
    try:
        if module.endswith(".py"):
            file = resolve_path(module)
        else:
            package, *inner = module.split(".")
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            spec = importlib.util.find_spec(package)
            file = Path(spec.origin or "").parent.joinpath(*inner).with_suffix(".py") if inner and spec else None
            file = Path(spec.origin) if spec and spec.origin and not inner else file
    except (OSError, ValueError):
        return None
    if file and not file.is_file() and not module.endswith(".py"):
        file = file.with_suffix("") / "__init__.py"
    return file if file and file.is_file() else None


def parse_source(module: str) -> list[ast.stmt]:
    """The statements of a module or file, which is not imported; none where its source cannot be read."""
    try:
        file = source_file(module)
        return ast.parse(file.read_text(encoding="utf-8")).body if file else []
    except (OSError, SyntaxError, ValueError):
        return []


_PREFIX = "hetpure_user_"


def _import_file(path: Path) -> Any:
    # A name of its own: a user's net.py must not pass for a package called net, or for another folder's net.py.
    digest = hashlib.blake2b(str(path.resolve()).encode() + b"\n" + path.read_bytes(), digest_size=6).hexdigest()
    unique = f"{_PREFIX}{digest}_{path.stem}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    return module
