"""The tutorials' commands and code run, at a small size, and what they print is what the pages say."""

import sys
from pathlib import Path

import pytest

from hetpure.config import PROJECT_ROOT
from tests.docs import tutorial

FOLDER = PROJECT_ROOT / "docs" / "tutorials"
PRINTED = {
    "first-evaluation": "heterogeneous",
    "own-purifier": "one jump",
    "own-model": "lower tau",
    "reading-a-report": "FAILS ITS HONESTY CHECKS",
}
"""Words that each tutorial's blocks print."""


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The current folder, from which Python also imports, as it does for a user."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.parametrize("name", sorted(page.stem for page in FOLDER.glob("*.md")))
def test_a_tutorial_runs(name: str, empty_folder: Path) -> None:
    printed = tutorial.run(FOLDER / f"{name}.md")
    assert PRINTED[name] in printed


def test_the_purifier_has_twenty_lines() -> None:
    codes = [block.code for block in tutorial.blocks(FOLDER / "own-purifier.md") if "class OneJump" in block.code]
    (code,) = codes
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 20
