"""The benchmarks still fit the package: each can be imported, and the smallest one runs."""

import runpy
import sys
from pathlib import Path

import pytest

from hetpure.config import PROJECT_ROOT

SCRIPTS = sorted(path for path in (PROJECT_ROOT / "benchmarks").glob("*.py") if path.stem != "common")


@pytest.fixture(autouse=True)
def common(monkeypatch: pytest.MonkeyPatch) -> None:
    """As python does for a script: its folder comes first."""
    monkeypatch.syspath_prepend(PROJECT_ROOT / "benchmarks")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_benchmark_has_a_help_text(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert f"python benchmarks/{script.name}" in capsys.readouterr().out
    assert f"`{script.name}`" in (PROJECT_ROOT / "benchmarks" / "README.md").read_text()


def test_purification_prints_two_ratios(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--batch", "1", "--network-calls", "2", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["purification.py", *arguments])
    runpy.run_path(str(PROJECT_ROOT / "benchmarks" / "purification.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "purification, 2 calls, over bare calls", "the same with its mask (one classifier call more)"
    ]  # fmt: skip


def test_attacks_counts_calls_and_pairs_images(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    only = "pgd-2x2,pgd:loss=margin-2x2,momentum_pgd:checks=1~grow-2x2"
    arguments = ["--config", "digits.yaml", "--images", "3", "--draws", "4", "--only", only, "purifier.grid_size=10"]
    monkeypatch.setattr(sys, "argv", ["attacks.py", *arguments])
    runpy.run_path(str(PROJECT_ROOT / "benchmarks" / "attacks.py"), run_name="__main__")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == only.split(",")
    assert rows[0][1:3] == ["8", "8"]  # 2 iterations, 2 draws, 2 calls, each with a backward pass
    assert rows[0][5] == "+0.000"  # the difference to itself
