"""Classes by name, imported when they are first used; and their arguments, read without importing them."""

import ast
import difflib
import functools
import importlib
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from hetpure.config.schema import dotted, unknown_key
from hetpure.errors import ConfigError

Kind = TypeVar("Kind")


class Registry(Mapping[str, type[Kind]], Generic[Kind]):
    """Classes by name. Looking one up imports its module; names and ``targets`` import nothing.

    Args:
        targets: ``package.module:Class`` by name.
    """

    def __init__(self, targets: Mapping[str, str]) -> None:
        self.targets = dict(targets)

    def __getitem__(self, name: str) -> type[Kind]:
        return resolve(self.targets[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __contains__(self, name: object) -> bool:
        return name in self.targets

    def name_of(self, thing: object) -> str:
        """The name of an object's class; ``package.module:Class`` where it has none."""
        target = f"{type(thing).__module__}:{type(thing).__qualname__}"
        return next((name for name, known in self.targets.items() if known == target), target)

    def check_name(self, name: Any, where: str, *others: str) -> str:
        """The name, if it is one.

        Args:
            name: from a config.
            where: the section that has it.
            others: accepted beside the registry's.

        Raises:
            ConfigError: for another name.
        """
        accepted = [*self.targets, *others]
        if isinstance(name, str) and name in accepted:
            return name
        close = difflib.get_close_matches(str(name), accepted, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(dotted(where, "name"), found=name, accepted=", ".join(accepted) + hint)


@contextmanager
def errors_within(section: str) -> Iterator[None]:
    """Errors about a constructor's arguments become errors about the keys of a config's section."""
    try:
        yield
    except ConfigError as error:
        raise error.within(section) from None
    except ValueError as error:
        raise ConfigError(section, " ".join(str(error).split())) from None


def resolve(target: str) -> Any:
    """What ``package.module:Class`` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def check_keys(
    settings: Mapping[str, Any], target: str, where: str, extra: Collection[str] = (), supplied: Collection[str] = ()
) -> None:
    """Refuses a key that a constructor does not take, before anything is imported; says nothing where it is not sure.

    Args:
        settings: the section.
        target: ``package.module:Class``, or a function.
        where: the section's name.
        extra: keys that are no arguments.
        supplied: arguments that are no keys.

    Raises:
        ConfigError: names the key and what is accepted.
    """
    arguments = constructor_arguments(target)
    if arguments is not None:
        accepted = [*extra, *(name for name in arguments if name not in supplied)]
        for key in settings:
            if key not in accepted:
                raise unknown_key(str(key), accepted, where)


@functools.cache
def constructor_arguments(target: str) -> tuple[str, ...] | None:
    """The arguments of a class or function, read from its module's source; None where the source does not tell."""
    module, _, name = target.partition(":")
    package, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(package)
        file = Path(spec.origin or "").parent.joinpath(*inner) if spec else Path()
        tree = ast.parse(file.with_suffix(".py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    imported = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _arguments(node)
        if isinstance(node, ast.ClassDef) and node.name == name:
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    named = _arguments(part)
                    return named and named[1:]
            inherited = [_inherited(ast.unparse(base), module, imported) for base in node.bases]
            return next((arguments for arguments in inherited if arguments is not None), None)
    return None


def _inherited(base: str, module: str, imported: Mapping[str, str]) -> tuple[str, ...] | None:
    return () if base == "nn.Module" else constructor_arguments(imported.get(base, f"{module}:{base}"))


def _arguments(function: ast.FunctionDef) -> tuple[str, ...] | None:
    arguments = function.args
    if arguments.vararg or arguments.kwarg:
        return None
    return tuple(argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))
