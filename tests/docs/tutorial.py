"""Runs a tutorial: its code blocks, in order, in an empty folder.

* A ``bash`` block's lines are commands. A line that ends in ``# exit code N`` must end so; any other with 0.
* A ``python`` block is executed. All blocks of a page share their names.
* A block whose first line is a comment with a file's name is saved as that file.
* ``text`` blocks are outputs that are shown, and are not compared.

A comment ``<!-- tests: key=value .. -->`` adds keys to each ``hetpure evaluate`` that follows, so that it is small;
``<!-- not run -->`` before a block leaves it out.
"""

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from hetpure.cli import main

PART = re.compile(
    r"^<!-- tests: (?P<keys>[^\n]*?) -->$|(?P<skip>^<!-- not run -->\n\n?)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml))\n")
EXIT_CODE = re.compile(r"#.*\bexit code (\d+)$")


class Block(NamedTuple):
    """A code block, and the keys that are added to its evaluations."""

    language: str
    code: str
    keys: list[str]


def blocks(page: Path) -> list[Block]:
    """A page's code blocks that are run, in order."""
    found, keys = [], []
    for part in PART.finditer(page.read_text(encoding="utf-8")):
        if part["keys"] is not None:
            keys = shlex.split(part["keys"])
        elif not part["skip"] and part["language"] != "text":
            found.append(Block(part["language"], part["code"], keys))
    return found


def run(page: Path) -> str:
    """Runs a page's blocks in the current folder.

    Returns:
        What they print.
    """
    names: dict[str, Any] = {"__name__": page.stem}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for language, code, keys in blocks(page):
            if saved := FILE.match(code):
                Path(saved[1]).write_text(code, encoding="utf-8")
            elif language == "python":
                exec(compile(code, f"{page.name}, Python", "exec"), names)
            elif language == "bash":
                for line in code.replace("\\\n", " ").splitlines():
                    run_line(line, keys)
            else:
                raise ValueError(f"{page.name}: a block of {language or 'no language'} is no file")
    return printed.getvalue()


def run_line(line: str, keys: list[str]) -> None:
    """Runs one command; ``hetpure`` in this process, for importing torch takes seconds."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    wanted = EXIT_CODE.search(line)
    if words[0] == "hetpure":
        evaluates = words[1] == "evaluate"
        code = main([*words[1:], *(keys if evaluates else [])])
    else:
        code = subprocess.run(["bash", "-c", line], check=False).returncode
    assert code == (int(wanted[1]) if wanted else 0), line
