from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hetpure.cli import main
from hetpure.runs.convergence import budgets, verdict
from hetpure.runs.read import read_run
from hetpure.runs.records import Record
from hetpure.runs.results import Report, table_rows
from tests.evaluation import jobs

ROWS = {"uniform": {"purifier": {"name": "uniform", "t": 0.1, "grid_size": 20}}}


def made(after: dict[str, str], end: str) -> list[Record]:
    """Records of images that are right (1) or wrong (0) after some iterations and at the end."""
    return [
        Record(k, "one-shot", 1, [1], [], [int(right)], attack_loss=[0.0] * 20,
               checkpoints={name: [int(outcomes[k])] for name, outcomes in after.items()})
        for k, right in enumerate(end)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "end", "passed"),
    [
        ("1" * 60, "1" * 60, True),
        ("1" * 60, "1" * 59 + "0", True),  # at most 7.7 %
        ("1" * 60, "1" * 55 + "0" * 5, False),  # p = 1/32
        ("1" * 60, "1" * 56 + "0" * 4, None),  # p = 1/16, but at most 14 %
        ("1" * 16, "1" * 16, None),  # at most 17 %: too few images
        ("1" * 56 + "0" * 4, "1" * 60, True),  # a longer attack may happen to break less
    ],
)
def test_a_longer_attack_breaks_more_or_hardly_any(before: str, end: str, passed: bool | None) -> None:
    """The last two budgets decide; the first does not."""
    records = made({"3": "1" * len(end), "10": before}, end)
    found = verdict(records, None, is_random=False)
    assert found.passed is passed, found.details
    assert f"from 10 iterations to the end {before.count('1')} -> {end.count('1')} of {len(end)}" in found.details


def test_more_draws_must_break_no_more_either() -> None:
    records = made({"10": "1" * 60}, "1" * 60)
    assert verdict(records, None, is_random=True).passed is None, "not tried"
    assert verdict(records, made({}, "1" * 60), is_random=True).passed is True
    assert verdict(records, made({}, "0" * 5 + "1" * 55), is_random=True).passed is False
    assert verdict(records, made({}, "1" * 8), is_random=True).passed is None, "too few images"
    assert verdict(made({}, "1" * 60), None, is_random=False).passed is None, "one budget"


def test_budgets_are_accuracies_by_calls() -> None:
    found = budgets(made({"5": "1101", "10": "1001"}, "1000"), calls_per_gradient=6)
    assert [(b.iterations, b.calls, b.robust.value) for b in found] == [(5, 30, 0.75), (10, 60, 0.5), (20, 120, 0.25)]
    assert budgets(made({}, "11"), 6) == []


def test_an_image_that_left_early_has_no_further_calls() -> None:
    records = made({"5": "11", "10": "11"}, "10")
    records[1] = replace(records[1], left_after=7, attack_loss=[0.0] * 8)
    assert [budget.calls for budget in budgets(records, 6)] == [30, (10 + 8) // 2 * 6, (20 + 8) // 2 * 6]


def test_what_has_not_converged_is_said_as_loudly_as_a_failed_check() -> None:
    rows = table_rows("ours", made({}, "1"), 1, ["one-shot"])
    warning = Report("", [replace(rows[0], converged=False)]).warning
    assert warning is not None and "THE ATTACK HAS NOT CONVERGED (ours)" in warning
    assert Report("", rows).warning is None


def test_checkpoints_are_shorter_attacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One attack of four iterations judged after two is, to the bit of each decision, the attack of two iterations."""
    settings = ["data.subset=5", "data.batch_size=3", "attack.eot=2", "ensemble.size=2", "chunk_size=4",
                "attack.step_size=0.1", "protocols.resubmissions=2"]  # fmt: skip
    long, short = tmp_path / "long", tmp_path / "short"
    assert jobs.evaluate(long, ROWS, *settings, "attack.steps=4", "attack.checkpoints=[1,2]") == 0
    assert jobs.evaluate(short, ROWS, *settings, "attack.steps=2") == 0
    (of_long,), (of_short,) = read_run(long).methods, read_run(short).methods
    assert [r.checkpoints["2"] for r in of_long.records] == [r.adversarial for r in of_short.records]
    assert {*of_long.records[0].checkpoints} == {"1", "2"} and not of_short.records[0].checkpoints
    assert np.array([r.adversarial != r.checkpoints["1"] for r in of_long.records]).any(), "budgets differ"
    assert of_long.rows[0].conditions.gradient_calls == 2 * of_long.rows[0].conditions.network_calls  # pyright: ignore
    capsys.readouterr()
    assert main(["report", str(long)]) == 0
    assert "not checked" in capsys.readouterr().out
    assert "denoiser calls of the attack" in (long / "report.html").read_text()
    for wrong, problem in (
        ("[4]", "rising numbers from 1 to below steps, which is 4"),
        ("[2,2]", "rising numbers"),
        ("[0]", "rising numbers"),
    ):
        assert jobs.evaluate(tmp_path / "x", ROWS, *settings, "attack.steps=4", f"attack.checkpoints={wrong}") == 2
        assert problem in capsys.readouterr().err
    assert jobs.evaluate(tmp_path / "x", ROWS, "attack.restarts=2", "attack.checkpoints=[2]") == 2
    assert "would have gone another way" in capsys.readouterr().err
