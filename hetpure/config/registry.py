"""Classes by name, imported when they are first used; and their arguments, read without importing them."""

import ast
import difflib
import functools
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hetpure.config.plugins import FORMS, entry_points, is_target, load, parse_source, source_file, target_of
from hetpure.config.schema import unknown_key
from hetpure.errors import ConfigError
from hetpure.lazy import import_quickly

Kind = TypeVar("Kind")


@dataclass(frozen=True, eq=False)
class Registry(Mapping[str, type[Kind]], Generic[Kind]):
    """Classes by name. Looking one up imports its module; nothing else does.

    A name may also be an entry point of an installed package, or code from outside, ``FILE.py:Class`` or
    ``package.module:Class``. Iteration gives the names of this package alone.

    Attributes:
        targets: ``package.module:Class`` by name.
        base: ``package.module:Class`` of which code from outside must give a subclass.
        group: of the entry points of installed packages.
    """

    targets: dict[str, str]
    base: str
    group: str

    def __getitem__(self, name: str) -> type[Kind]:
        if name in self.targets:
            return resolve(self.targets[name])
        found, base = load(self.target(name)), resolve(self.base)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise ConfigError("name", f"{name} is no subclass of {self.base.replace(':', '.')}")
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.targets or is_target(name) or name in entry_points(self.group)

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def target(self, name: str) -> str:
        """``package.module:Class`` or ``FILE.py:Class`` of a name."""
        return self.targets.get(name) or (name if is_target(name) else entry_points(self.group)[name])

    def outside(self, name: str) -> list[str]:
        """The target of a name that is not of this package: one, or none."""
        return [] if name in self.targets else [self.target(name)]

    def name_of(self, thing: object) -> str:
        """The name of an object's class; its target where it has none."""
        target = target_of(type(thing))
        return next((name for name, known in self.targets.items() if known == target), target)

    def check_name(self, name: Any, section: str, *others: str) -> str:
        """The ``name`` of a config's section; nothing is imported.

        Raises:
            ConfigError: unless it is the registry's, one of the others, or what a source defines.
        """
        accepted = [*self.targets, *others]
        if isinstance(name, str) and name in accepted:
            return name
        if is_target(name):
            check_defined(name, f"{section}.name")
            return name
        accepted += (offered := entry_points(self.group))
        if isinstance(name, str) and name in offered:
            return name
        close = difflib.get_close_matches(str(name), accepted, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{section}.name", found=name, accepted=f"{', '.join(accepted)}, or {FORMS}{hint}")


def check_defined(target: str, key: str) -> None:
    """Refuses code whose file is not there, or does not define its name; silent where the source does not tell."""
    module, _, name = target.rpartition(":")
    if module.endswith(".py") and source_file(module) is None:
        raise ConfigError(key, "there is no such file", found=target)
    names: set[str] = set()
    for node in ast.walk(ast.Module(parse_source(module), [])):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    if names and not names & {name, "*"}:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(key, f"{module} defines no {name}{hint}")


def resolve(target: str) -> Any:
    """The class or function that ``package.module:name`` names."""
    module, _, name = target.partition(":")
    return getattr(import_quickly(module), name)


@contextmanager
def errors_within(section: str) -> Iterator[None]:
    """Errors about a constructor's arguments become errors about the keys of a config's section."""
    try:
        yield
    except ConfigError as error:
        raise error.within(section) from None
    except ValueError as error:
        raise ConfigError(section, " ".join(str(error).split())) from None
    except Exception as error:  # a user's class may raise anything
        raise ConfigError(section, " ".join(f"{type(error).__name__}: {error}".split())[:300]) from error


def check_keys(
    settings: Mapping[str, Any], target: str, section: str, extra: Collection[str] = (), supplied: Collection[str] = ()
) -> None:
    """Refuses a key that a constructor does not take, without importing it; silent where its source does not tell.

    Args:
        settings: of the section.
        target: ``package.module:Class``, or a function.
        section: its name.
        extra: keys that are no arguments.
        supplied: arguments that are no keys.

    Raises:
        ConfigError: names the key and what is accepted.
    """
    arguments = constructor_arguments(target)
    accepted = [*extra, *(name for name in arguments or () if name not in supplied)]
    for key in settings:
        if arguments is not None and key not in accepted:
            raise unknown_key(str(key), accepted, section)


def constructor_arguments(target: str) -> tuple[str, ...] | None:
    """The arguments of a class or function, read from its module's source; None where the source does not tell."""
    read = _read_arguments.__wrapped__ if ".py:" in target else _read_arguments  # a user's file may change
    return read(target)


@functools.cache
def _read_arguments(target: str) -> tuple[str, ...] | None:
    module, _, name = target.rpartition(":")
    body = parse_source(module)
    definitions = {node.name: node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    imported = {alias.asname or alias.name: f"{node.module}:{alias.name}" for node in imports for alias in node.names}
    found = definitions.get(name)
    if isinstance(found, ast.FunctionDef):
        return _arguments(found)
    if found is None:
        return None
    for node in found.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = _arguments(node)
            return arguments and arguments[1:]
    for base in map(ast.unparse, found.bases):
        inherited = () if base == "nn.Module" else constructor_arguments(imported.get(base, f"{module}:{base}"))
        if inherited is not None:
            return inherited
    return None


def _arguments(function: ast.FunctionDef) -> tuple[str, ...] | None:
    named = function.args
    is_open = named.vararg or named.kwarg
    return None if is_open else tuple(each.arg for each in (*named.posonlyargs, *named.args, *named.kwonlyargs))
