"""Links in the documentation lead somewhere, and the README's Python example runs."""

import re
from pathlib import Path

import pytest

from hetpure.config import PROJECT_ROOT

PAGES = [PROJECT_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((PROJECT_ROOT / "docs").rglob("*.md"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT_ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(link)
    assert not broken


def test_every_page_is_in_the_index() -> None:
    index = (PROJECT_ROOT / "docs" / "README.md").read_text()
    pages = {page.relative_to(PROJECT_ROOT / "docs").as_posix() for page in PAGES if "docs" in page.parts}
    assert {page for page in pages if f"({page})" not in index} == {"README.md"}


def test_the_readme_is_short_and_its_example_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    text = (PROJECT_ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    exec(block, {})
    assert "PGD Linf eps 0.15, 10 steps" in capsys.readouterr().out
    assert (tmp_path / "runs/mine/report.html").is_file()
