"""Classes by name, imported when they are first used; and their arguments, read without importing them."""

import ast
import difflib
import functools
import importlib
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from hetpure.config.schema import unknown_key
from hetpure.errors import ConfigError

Kind = TypeVar("Kind")


@dataclass(frozen=True, eq=False)
class Registry(Mapping[str, type[Kind]], Generic[Kind]):
    """Classes by name. Looking one up imports its module; nothing else does.

    Attributes:
        targets: ``package.module:Class`` by name.
    """

    targets: dict[str, str]

    def __getitem__(self, name: str) -> type[Kind]:
        return resolve(self.targets[name])

    def __contains__(self, name: object) -> bool:
        return name in self.targets

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def name_of(self, thing: object) -> str:
        """The name of an object's class; ``package.module:Class`` where it has none."""
        target = f"{type(thing).__module__}:{type(thing).__qualname__}"
        return next((name for name, known in self.targets.items() if known == target), target)

    def check_name(self, name: Any, section: str, *others: str) -> str:
        """The ``name`` of a config's section; ConfigError unless it is the registry's or one of the others."""
        accepted = [*self.targets, *others]
        if isinstance(name, str) and name in accepted:
            return name
        close = difflib.get_close_matches(str(name), accepted, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{section}.name", found=name, accepted=", ".join(accepted) + hint)


def resolve(target: str) -> Any:
    """The class or function that ``package.module:name`` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@contextmanager
def errors_within(section: str) -> Iterator[None]:
    """Errors about a constructor's arguments become errors about the keys of a config's section."""
    try:
        yield
    except ConfigError as error:
        raise error.within(section) from None
    except ValueError as error:
        raise ConfigError(section, " ".join(str(error).split())) from None


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


def parse_source(module: str) -> list[ast.stmt]:
    """The statements of a module, which is not imported; none where its source cannot be read."""
    package, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(package)
        file = Path(spec.origin or "").parent.joinpath(*inner) if spec else Path()
        return ast.parse(file.with_suffix(".py").read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, ValueError):
        return []


@functools.cache
def constructor_arguments(target: str) -> tuple[str, ...] | None:
    """The arguments of a class or function, read from its module's source; None where the source does not tell."""
    module, _, name = target.partition(":")
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
