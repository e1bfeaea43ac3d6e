"""The benchmarks still fit the package: each can be imported, and the smallest one runs."""

import importlib
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from hetpure.config import PROJECT_ROOT

MODULES = ("common", "mask_controls")
"""What scripts and configs use, and nobody calls."""

SCRIPTS = sorted(path for path in (PROJECT_ROOT / "benchmarks").glob("*.py") if path.stem not in MODULES)


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


def test_rows_are_compared_at_equal_standard_accuracy_and_in_pairs() -> None:
    """Levels at 100, 50 and 50 % standard accuracy have 0, 40 and 60 % robust: half way to 75 % there are 25."""
    compare = importlib.import_module("compare_rows")

    def row(standard: int, robust: int) -> np.ndarray:
        return np.array([[k < standard for k in range(100)], [k < robust for k in range(100)]], dtype=float)

    reference = [row(100, 0), row(50, 40), row(50, 60)]
    assert compare.above(row(75, 35), reference) == pytest.approx(0.10)
    assert compare.above(row(40, 35), reference) == pytest.approx(-0.15), "the last level holds beyond"
    assert np.mean([compare.above(level, reference) for level in reference]) == pytest.approx(0.0)
    named = {f"uniform {k}": level for k, level in enumerate(reference)}
    lines = compare.report({**named, "a 1": row(75, 35), "b 1": row(70, 45), "b 2": row(0, 0)}, [("a", "b")])
    assert "| a 1 | 75.0 | 35.0 | +10.0 " in "\n".join(lines)
    assert re.fullmatch(r"\| mean of 1 pairs \| \+5\.0 .* \| -10\.0 .* \| -2\.5 .* \|", lines[-1])


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
