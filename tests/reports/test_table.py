import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
import yaml
from scipy.stats import binomtest

from hetpure.cli import main
from hetpure.reports import dashboard, write_reports
from hetpure.reports.aggregate import aggregate, markdown
from hetpure.reports.dashboard import Dashboard
from hetpure.reports.table import COLUMNS, Column, columns_of, print_report, write_table_files
from hetpure.runs.records import Record
from hetpure.runs.results import (
    Conditions,
    Report,
    TableRow,
    Verdict,
    accuracy,
    notes_on,
    table_rows,
    wilson,
    write_results,
)
from hetpure.runs.store import RecordStore


def outcomes(clean: str, adversarial: str = "", protocol: str = "one-shot") -> list[Record]:
    """Records of samples that came out right (1) or wrong (0), of class k mod 3; x is one that failed."""
    records = []
    for k, right in enumerate(clean):
        predicted = [] if right == "x" else [k % 3 if right == "1" else (k + 1) % 3]
        attacked = [k % 3 if adversarial[k] == "1" else (k + 1) % 3] if adversarial and predicted else []
        failure = "not finite at attack iteration 3: the loss, NaN" if right == "x" else None
        chunks = {"attack": 64, "defense": 64}
        records.append(
            Record(k, protocol, k % 3, predicted, [], attacked, [], seconds=0.5, failure=failure, chunks=chunks)
        )
    return records


def one_shot(method: str, records: list[Record], total: int, conditions: Conditions | None = None) -> TableRow:
    (row,) = table_rows(method, records, total, ["one-shot"], conditions)
    return row


@pytest.mark.parametrize(
    ("right", "wrong", "value", "low", "high"),
    [
        # Wilson, z = 1.959964: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
        (8, 2, 0.8, 0.490162, 0.943318),
        (0, 10, 0.0, 0.0, 0.277533),
        (10, 0, 1.0, 0.722467, 1.0),
        (320, 192, 0.625, 0.582281, 0.665858),
        (1, 0, 1.0, 0.206549, 1.0),
    ],
)
def test_accuracy_with_its_wilson_interval(right: int, wrong: int, value: float, low: float, high: float) -> None:
    z, n = 1.959963984540054, right + wrong
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert (centre - half, centre + half) == pytest.approx((low, high), abs=2e-6), "the literals are wrong"

    found = accuracy(outcomes("1" * right + "0" * wrong), "clean")
    assert found.count == n
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high), abs=2e-6)


def test_wilsons_interval_is_scipys_to_the_bit() -> None:
    for count in (1, 2, 7, 128, 512, 10_000):
        for right in {0, 1, count // 3, count - 1, count}:
            interval = binomtest(right, count).proportion_ci(method="wilson")
            assert (wilson(right, count).low, wilson(right, count).high) == (interval.low, interval.high)


def test_no_samples_is_no_number() -> None:
    found = accuracy([], "clean")
    assert math.isnan(found.value) and found.count == 0 and str(found) == "-"
    assert str(accuracy(outcomes("1101"), "adversarial")) == "-"


def test_a_row_counts_clean_and_adversarial_apart() -> None:
    row = one_shot("ours", outcomes("1110", "1000"), 7)
    assert (row.method, row.images, row.total, row.seconds) == ("ours", 4, 7, 2.0)
    assert (row.standard.value, row.robust.value) == (0.75, 0.25)
    assert str(row.standard) == "75.00 [30.1, 95.4]"


def test_failed_samples_are_in_no_accuracy_and_said() -> None:
    records = outcomes("1x1x", "1x0x")
    row = one_shot("ours", records, 4)
    assert (row.images, row.failed, row.total) == (2, 2, 4)
    assert (row.standard.value, row.robust.value, row.robust.count) == (1.0, 0.5, 2)
    (note,) = notes_on("ours", records, 64)
    assert "2 of 4 samples failed" in note and "sample 1: not finite at attack iteration 3" in note


def test_smaller_chunks_are_said() -> None:
    assert notes_on("ours", outcomes("11"), 64) == []
    (note,) = notes_on("ours", outcomes("11"), 128)
    assert "memory ran out; 2 of 2 samples" in note and "chunks of 64 rows, not 128" in note


def test_protocols_are_lines_of_one_method(tmp_path: Path) -> None:
    records = outcomes("1111", "1110") + outcomes("1110", "1000", "best of 5")
    rows = table_rows("ours", records, 4, ["one-shot", "best of 5"], Conditions("PGD", "exact", 8, 20))
    assert [(r.protocol, r.standard.value, r.robust.value) for r in rows] == [
        ("one-shot", 1.0, 0.75),
        ("best of 5", 0.75, 0.25),
    ]
    write_results(Report("t", rows), tmp_path)
    write_table_files(Report("t", rows), tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert (
        "| ours | one-shot | 100.00 [51.0, 100.0] | 75.00 [30.1, 95.4] | not checked | 4 | PGD | exact | 8 | 20 | 2.0 |"
        in text
    )
    assert "|  | best of 5 | 75.00 [30.1, 95.4] | 25.00 [4.6, 69.9] |  |  |  |  |  |  |" in text
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["method"], line["protocol"], line["attack"]) for line in lines] == [
        ("ours", "one-shot", "PGD"),
        ("ours", "best of 5", "PGD"),
    ]


def test_threat_models_have_columns_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        one_shot("ball", outcomes("1111", "0001"), 4, Conditions("PGD", "exact", 8, norm="Linf")),
        one_shot("clean", outcomes("1110"), 4),
        one_shot("warp", outcomes("1111", "0111"), 4, Conditions("StAdv", "exact", 8, norm="StAdv")),
    ]
    headings = [column.heading for column in columns_of(rows)]
    assert headings[:5] == ["method", "protocol", "standard, %", "robust under Linf, %", "robust under StAdv, %"]
    assert all(len(columns_of(some)) == len(COLUMNS) for some in (rows[:2], rows[1:])), "one norm is one column"
    write_table_files(Report("t", rows), tmp_path)
    assert "| 25.00 [4.6, 69.9] | - | not checked | 4 | PGD" in (tmp_path / "results.md").read_text()
    assert "| - | 75.00 [30.1, 95.4] | not checked | 4 | StAdv" in (tmp_path / "results.md").read_text()
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    both = [(line["robust_Linf"], line["robust_StAdv"]) for line in lines]
    assert both == [("0.25", "nan"), ("nan", "nan"), ("nan", "0.75")]
    assert "robust" not in lines[0]
    print_report(Report("t", rows))
    assert "robust under" in capsys.readouterr().out


def test_tables_in_every_form_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        one_shot("plain", outcomes("1111", "0001"), 4),
        one_shot("ours", outcomes("1110"), 9, Conditions("PGD", "exact", 8, 20)),
    ]
    report = Report("a title", rows, ["a note"], {"ours": [Verdict("loss rises", True, "from 1 to 2")]})
    write_results(report, tmp_path)
    write_table_files(report, tmp_path)

    found = json.loads((tmp_path / "results.json").read_text())
    assert (found["title"], found["warning"], found["notes"]) == ("a title", None, ["a note"])
    assert [(r["method"], r["images"], r["total"], r["standard"]["value"]) for r in found["rows"]] == [
        ("plain", 4, 4, 1.0),
        ("ours", 4, 9, 0.75),
    ]
    assert found["rows"][0]["robust"]["value"] == 0.25
    assert found["honesty"]["ours"] == [{"check": "loss rises", "passed": True, "details": "from 1 to 2"}]

    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == ["plain", "ours"]
    assert float(lines[0]["robust"]) == 0.25 and float(lines[0]["robust_low"]) == pytest.approx(0.045587, abs=1e-6)
    assert [lines[1][key] for key in ("attack", "gradients", "eot", "ensemble")] == ["PGD", "exact", "8", "20"]
    assert float(lines[1]["standard"]) == 0.75 and float(lines[1]["standard_high"]) == pytest.approx(0.954413, abs=1e-6)

    text = (tmp_path / "results.md").read_text()
    line = "| one-shot | 100.00 [51.0, 100.0] | 25.00 [4.6, 69.9] | not checked | 4 | no attack | - | 1 | 1 | 2.0 |"
    assert line in text
    assert "| ours | one-shot | 75.00 [30.1, 95.4] | - | - | 4 of 9 | PGD | exact | 8 | 20 | 2.0 |" in text
    assert "* loss rises: ok. from 1 to 2" in text and "* a note" in text

    print_report(report)
    printed = capsys.readouterr().out
    for part in ("a title", "plain", "25.00 [4.6, 69.9]", "4 of 9", "75.00 [30.1, 95.4]", "a note", "loss rises: ok"):
        assert part in printed
    assert not list(tmp_path.glob("*.part"))


def test_a_failing_report_says_so_at_its_top(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = [
        Verdict("gradients", False, "zero"),
        Verdict("transfer", None, "-"),
        Verdict("huge eps", False, "9 of 9"),
    ]
    report = Report("t", [one_shot("ours", outcomes("11", "11"), 2)], [], {"ours": verdicts, "fine": verdicts[1:2]})
    print_report(report)
    write_results(report, tmp_path)
    write_table_files(report, tmp_path)
    expected = "THIS REPORT FAILS ITS HONESTY CHECKS (ours: gradients, huge eps)"
    assert (tmp_path / "results.md").read_text().startswith(f"**{expected}")
    assert expected in json.loads((tmp_path / "results.json").read_text())["warning"]
    assert capsys.readouterr().out.startswith(expected)


def test_results_json_is_json_for_everyone(tmp_path: Path) -> None:
    """Where nothing was measured there is no NaN, which only Python's reader takes."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    write_results(Report("t", [one_shot("ours", [], 9)]), tmp_path)

    json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)


def test_latex_shows_what_all_rows_have_in_common_once(tmp_path: Path) -> None:
    rows = [
        one_shot("plain_1", outcomes("1111", "0001"), 4, Conditions("PGD 8/255", "exact", 1, 1)),
        one_shot("ours", outcomes("1110", "1100"), 4, Conditions("PGD 8/255", "exact", 8, 20)),
    ]
    write_table_files(Report("4 images & more", rows, ["a_note"]), tmp_path)
    text = (tmp_path / "results.tex").read_text()
    assert r"\caption{4 images \& more. protocol one-shot; attack PGD 8/255; gradients exact.}" in text
    assert (
        r"ours & 75.00 [30.1, 95.4] & 50.00 [15.0, 85.0] & not checked & 4 & 8 & 20 & 2.0 \\" in text
        and r"a\_\allowbreak{}note\par" in text
    )
    assert r"plain\_1 & " in text and r"\begin{tabular}{lrrlrrrr}" in text


def test_a_new_column_is_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """One object, in one file, is all that a column takes."""
    logged: dict[str, Any] = {}
    monkeypatch.setattr(dashboard, "wandb_mode", lambda _: "offline")
    monkeypatch.setattr(wandb, "init", lambda **_: SimpleNamespace(log=logged.update, finish=lambda: None))
    folder = run_folder(tmp_path / "run", 0, "1110")
    records = outcomes("1111", "1110")
    RecordStore(folder / "none").append(records)
    write_results(Report("t", table_rows("none", records, 4, ["one-shot"])), folder)
    settings = {"project": "p", "name": None, "mode": "auto"}
    COLUMNS.append(Column("broken", lambda row: f"{row.standard.value - row.robust.value:.3f}"))
    try:
        Dashboard({"wandb": settings, "rows": {}, "grid": {}}, folder).finish(write_reports(folder))
    finally:
        COLUMNS.pop()
    printed = capsys.readouterr().out
    assert "broken" in printed and "going on without it" not in printed
    for name in ("results.md", "results.tex", "results.csv", "report.html"):
        text = (folder / name).read_text()
        assert "broken" in text and "0.250" in text, name
    assert logged["results"].columns[-1] == "broken" and logged["results"].data[0][-1] == "0.250"


# ---- several runs


REST = {
    "protocols": {"resubmissions": 1, "votes": 0},
    "honesty": {"images": 0},
    "ensemble": {"mode": "vote"},
}
"""Keys that a reader of a run folder needs."""


def run_folder(folder: Path, seed: int, robust: str, eps: float = 0.1) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"seed": seed, "purifier": {"name": "none"}, "attack": {"eps": eps}, "rows": {}, **REST})
    )
    write_results(Report("t", table_rows("ours", outcomes("1111", robust), 4, ["one-shot"])), folder)
    return folder


def test_runs_together_are_a_mean_and_a_standard_deviation(tmp_path: Path, capsys) -> None:
    folders = [run_folder(tmp_path / str(k), k, robust) for k, robust in enumerate(("1110", "1100", "1000"))]
    found = aggregate(folders)
    robust = found["ours", "one-shot"]["robust"]
    assert robust is not None
    assert (robust.mean, robust.deviation, robust.runs) == (0.5, pytest.approx(0.25), 3)
    assert "| ours | one-shot | 100.00 ± 0.00 | 50.00 ± 25.00 |" in markdown(found, 3)
    assert main(["aggregate", *map(str, folders)]) == 0
    assert "50.00 ± 25.00" in capsys.readouterr().out


def test_runs_together_keep_threat_models_apart(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / str(k), k, "1110") for k in range(2)]
    for folder, robust in zip(folders, ("0110", "0010"), strict=True):
        rows = [
            one_shot(norm, outcomes("1111", robust), 4, Conditions("an attack", norm=norm))
            for norm in ("Linf", "LPIPS")
        ]
        write_results(Report("t", rows), folder)
    found = aggregate(folders)
    assert found["LPIPS", "one-shot"]["robust_Linf"] is None and "robust" not in found["LPIPS", "one-shot"]
    assert "| Linf | one-shot | 100.00 ± 0.00 | 37.50 ± 17.68 | - |" in markdown(found, 2)
    assert "| method | protocol | standard, % | robust_Linf, % | robust_LPIPS, % |" in markdown(found, 2)


def test_runs_that_are_no_one_experiment_are_refused(tmp_path: Path, capsys) -> None:
    first = run_folder(tmp_path / "a", 0, "1111")
    same_seed = run_folder(tmp_path / "b", 0, "1110")
    other = run_folder(tmp_path / "c", 1, "1110", eps=0.2)
    unfinished = run_folder(tmp_path / "d", 2, "1110")
    write_results(Report("t", table_rows("ours", outcomes("11", "11"), 4, ["one-shot"])), unfinished)
    for folders, said in (
        ([first], "accepted: two runs or more"),
        ([first, same_seed], "has the seed 0"),
        ([first, other], "attack.eps was 0.1, is 0.2"),
        ([first, unfinished], "not finished"),
        ([first, tmp_path / "none"], "not an evaluation's folder"),
    ):
        assert main(["aggregate", *map(str, folders)]) == 2
        errors = capsys.readouterr().err
        assert said in errors and errors.count("\n") == 1
