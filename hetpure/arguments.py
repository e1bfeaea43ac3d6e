"""Objects that keep their constructor's arguments, so that an evaluation in Python can be saved as a config."""

import inspect
from typing import Any, Literal, Self, get_args, get_origin

from hetpure.errors import require


class KeepsArguments:
    """Base class that keeps its constructor's arguments, and refuses a value that a ``Literal`` hint does not list.

    Attributes:
        arguments: by name, with defaults; empty for a copy made without calling the constructor.
    """

    arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keeps the arguments before ``__init__`` runs, which a subclass may override freely."""
        self = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:  # copy and pickle call without arguments; a wrong call is refused by __init__
            object.__setattr__(self, "arguments", {})
            return self
        bound.apply_defaults()
        for name, parameter in signature.parameters.items():
            if get_origin(parameter.annotation) is Literal:
                choices = get_args(parameter.annotation)
                require(bound.arguments[name] in choices, name, bound.arguments[name], ", ".join(map(str, choices)))
        named = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        object.__setattr__(self, "arguments", {name: bound.arguments[name] for name in named[1:]})
        return self
