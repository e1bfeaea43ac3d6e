import csv
import json
import math
from pathlib import Path

import pytest

from hetpure.evaluation.records import Record
from hetpure.evaluation.table import Protocol, accuracy, print_table, table_row, write_table


def outcomes(clean: str, adversarial: str = "") -> list[Record]:
    """Records of samples that came out right (1) or wrong (0), of class k mod 3."""
    records = []
    for k, right in enumerate(clean):

        def scores(outcome: str, label: int = k % 3) -> list[float]:
            return [1.0 if c == (label if outcome == "1" else (label + 1) % 3) else 0.0 for c in range(3)]

        records.append(Record(k, k % 3, scores(right), scores(adversarial[k]) if adversarial else [], [], 0.5))
    return records


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


def test_classes_do_not_weigh_differently() -> None:
    """Micro average: three samples of class 0 right, one of class 1 wrong, is 75 %, not 50 %."""
    records = [Record(k, 0, [1.0, 0.0], [], [], 0.0) for k in range(3)] + [Record(3, 1, [1.0, 0.0], [], [], 0.0)]
    assert accuracy(records, "clean").value == 0.75


def test_no_samples_is_no_number() -> None:
    found = accuracy([], "clean")
    assert math.isnan(found.value) and found.count == 0 and str(found) == "-"
    assert str(accuracy(outcomes("1101"), "adversarial")) == "-"


def test_a_row_counts_clean_and_adversarial_apart() -> None:
    row = table_row("ours", outcomes("1110", "1000"), 7)
    assert (row.method, row.images, row.total, row.seconds) == ("ours", 4, 7, 2.0)
    assert (row.standard.value, row.robust.value) == (0.75, 0.25)
    assert str(row.standard) == "75.00 [30.1, 95.4]"


def test_tables_in_every_form_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        table_row("plain", outcomes("1111", "0001"), 4),
        table_row("ours", outcomes("1110"), 9, Protocol("PGD", "exact", 8, 20)),
    ]
    write_table(rows, "a title", tmp_path)

    found = json.loads((tmp_path / "results.json").read_text())
    assert found["title"] == "a title"
    assert [(r["method"], r["images"], r["total"], r["standard"]["value"]) for r in found["rows"]] == [
        ("plain", 4, 4, 1.0),
        ("ours", 4, 9, 0.75),
    ]
    assert found["rows"][0]["robust"]["value"] == 0.25

    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == ["plain", "ours"]
    assert float(lines[0]["robust"]) == 0.25 and float(lines[0]["robust_low"]) == pytest.approx(0.045587, abs=1e-6)
    assert (lines[1]["attack"], lines[1]["gradients"], lines[1]["eot"], lines[1]["ensemble"]) == (
        "PGD",
        "exact",
        "8",
        "20",
    )
    assert float(lines[1]["standard"]) == 0.75 and float(lines[1]["standard_high"]) == pytest.approx(0.954413, abs=1e-6)

    text = (tmp_path / "results.md").read_text()
    assert "| plain | 4 | no attack | - | 1 | 1 | 100.00 [51.0, 100.0] | 25.00 [4.6, 69.9] | 2.0 |" in text
    assert "| ours | 4 of 9 | PGD | exact | 8 | 20 | 75.00 [30.1, 95.4] | - | 2.0 |" in text

    print_table(rows, "a title")
    printed = capsys.readouterr().out
    for part in ("a title", "plain", "25.00 [4.6, 69.9]", "4 of 9", "75.00 [30.1, 95.4]"):
        assert part in printed


def test_results_json_is_json_for_everyone(tmp_path: Path) -> None:
    """Where nothing was measured there is no NaN, which only Python's reader takes."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    write_table([table_row("ours", [], 9)], "t", tmp_path)
    json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
