"""The exceptions that a command turns into one line instead of a traceback, and its exit codes."""

import copy
from collections.abc import Collection
from typing import Any, Self

BAD_INPUT = 2
STOPPED = 3
FAILED_CLAIM = 4
INTERRUPTED = 130

UNSET: Any = object()


class ConfigError(ValueError):
    """A key, argument or file that cannot be used.

    The commands print its message, a single line, and exit with code 2 before any long work starts. Programs read its
    fields; nothing parses the message.

    Args:
        key: the dotted key, the constructor's argument, the option or the file at fault.
        problem: what is wrong, where ``found`` and ``accepted`` do not say it.
        found: the value at fault.
        accepted: in words, what would be accepted.
        related: other arguments that the value does not go together with.

    Attributes:
        longest: about how long the message may be; what is longer is cut in its middle.
    """

    longest = 300

    def __init__(
        self, key: str, problem: str = "", *, found: Any = UNSET, accepted: str = "", related: Collection[str] = ()
    ) -> None:
        super().__init__(key, problem)
        self.key, self.problem, self.found, self.accepted, self.related = key, problem, found, accepted, tuple(related)

    def within(self, section: str) -> Self:
        """The same error as one of a section: its keys are dotted with the section's name."""
        error = copy.copy(self)
        error.key = f"{section}.{self.key}"
        error.related = tuple(f"{section}.{name}" for name in self.related)
        return error

    def __str__(self) -> str:
        text = shorten(self.key, 100)
        if self.found is not UNSET:
            text += f" is {_shown(self.found)}"
        if self.problem:
            text += f"{', ' if self.found is not UNSET else ': '}{self.problem}"
        return shorten(f"{text}; accepted: {self.accepted}" if self.accepted else text, self.longest)


def shorten(text: str, length: int = 300) -> str:
    """A text on one line without control characters, cut in the middle, between words, to about a length."""
    if len(text) > length:
        head, tail = text[: length // 2 - 2], text[2 - length // 2 :]
        text = f"{head.rsplit(' ', 1)[0]} .. {tail.split(' ', 1)[-1]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _shown(value: Any) -> str:
    try:
        return shorten(repr(value), 100)
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        return "an integer of thousands of digits"
    except RecursionError:
        return "a deeply nested value"


def require(condition: bool, key: str, found: Any, accepted: str, *related: str) -> None:
    """Raises ``ConfigError(key, found=found, accepted=accepted, related=related)`` unless the condition holds."""
    if not condition:
        raise ConfigError(key, found=found, accepted=accepted, related=related)


class AbsentError(ConfigError):
    """A valid reference to a file, package or dataset that is not available.

    A row of a table that lacks something is marked with the reason, and the others run.
    """


class RunError(RuntimeError):
    """A run that cannot continue for a reason outside the program: a full disk, no memory for a single image.

    Its message is a single line. Finished work is kept; the commands print the line and exit with code 3.
    """


class UnreadableError(RunError):
    """An image that cannot be read. An evaluation records its sample as failed and goes on."""
