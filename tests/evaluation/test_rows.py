"""``--rows``: some rows now, the others later or never, in the folder of the whole config."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hetpure.cli import main
from hetpure.config import read_config
from hetpure.evaluation import run as run_module
from tests.evaluation.jobs import evaluate

ROWS: dict[str, Any] = {
    "faint": {"purifier": {"name": "none"}, "attack": {"eps": 0.05}},
    "undefended": {"purifier": {"name": "none"}},
    "uniform": {"purifier": {"name": "uniform", "t": 0.1, "grid_size": 10}},
}
QUICK = ("data.subset=3", "attack.steps=1", "attack.eot=2", "ensemble.size=2", "chunk_size=auto")


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All records but for the time that they took, by row."""
    return {
        name: [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for file in sorted((folder / name).rglob("*.jsonl"))
            for line in file.read_text().splitlines()
        ]
        for name in ROWS
    }


def test_rows_one_by_one_are_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fixed = (*QUICK[:-1], "chunk_size=8", "honesty.images=2")
    assert evaluate(whole, ROWS, *fixed) == 0
    assert evaluate(parts, ROWS, *fixed, "--rows", "undefended,faint") == 0
    assert not (parts / "uniform").exists()
    assert [row["method"] for row in results(parts)["rows"]] == ["faint", "undefended"]
    # The folder is the whole config's.
    saved = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (whole, parts)]
    assert {**saved[0], "output": ""} == {**saved[1], "output": ""}
    assert evaluate(parts, ROWS, *fixed, "--rows", "uniform") == 0
    assert [row["method"] for row in results(parts)["rows"]] == [*ROWS]
    # What the checks said of rows that were left out this time still stands.
    assert results(parts)["honesty"].keys() == set(ROWS)
    assert records(parts) == records(whole) and all(records(parts).values())
    capsys.readouterr()
    assert evaluate(parts, ROWS, *fixed) == 0
    assert capsys.readouterr().out.count("all 3 images are done already") == len(ROWS)
    theirs, ours = results(whole), results(parts)
    assert {k: v for k, v in ours.items() if k != "rows"} == {k: v for k, v in theirs.items() if k != "rows"}
    content = [yaml.safe_load((folder / "content.yaml").read_text()) for folder in (whole, parts)]
    assert content[0] == content[1] and content[0]["rows"].keys() == set(ROWS)


def test_a_folder_says_from_the_beginning_what_its_records_are_made_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def instead(row: Any, *_: Any, **__: Any) -> None:
        seen.append({line["method"]: line["conditions"] for line in results(tmp_path / "run")["rows"]}[row.name])

    monkeypatch.setattr(run_module, "evaluate_row", instead)
    assert evaluate(tmp_path / "run", ROWS, *QUICK[:-1]) == 0
    assert [found["ensemble"] for found in seen] == [1, 1, 2] and all("PGD" in found["attack"] for found in seen)


def test_what_the_first_rows_chose_holds_for_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert evaluate(folder, ROWS, *QUICK, "--rows", "uniform") == 0
    chosen = yaml.safe_load((folder / "config.yaml").read_text())["chunk_size"]
    assert isinstance(chosen, int)
    assert evaluate(folder, ROWS, *QUICK) == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["chunk_size"] == chosen


def test_a_row_that_comes_back_with_other_settings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    both, other = {k: ROWS[k] for k in ("faint", "undefended")}, {**ROWS["faint"], "attack": {"eps": 0.06}}
    assert evaluate(tmp_path / "run", both, *QUICK[:-1]) == 0
    assert evaluate(tmp_path / "run", {"undefended": both["undefended"]}, *QUICK[:-1]) == 0
    assert evaluate(tmp_path / "run", {**both, "faint": other}, *QUICK[:-1]) == 2
    assert "the records of row faint in" in capsys.readouterr().err
    assert evaluate(tmp_path / "run", both, *QUICK[:-1]) == 0


def test_rows_that_are_left_out_need_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {**ROWS, "far": {"purifier": {"name": "none"}, "classifier": {"weights": "no/such.safetensors"}}}
    assert evaluate(tmp_path / "run", rows, *QUICK[:-1], "--rows", "undefended") == 0
    assert evaluate(tmp_path / "run", rows, *QUICK[:-1]) == 2
    assert "no/such.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("undefendet", "--rows undefendet: is no row of this config; did you mean undefended?"),
        ("undefended,x", "--rows x: is no row of this config; did you mean faint, undefended, uniform?"),
        ("", "--rows : is no row"),
    ],
)
def test_an_unknown_row_is_refused(rows: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate(tmp_path / "run", ROWS, *QUICK, f"--rows={rows}") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_row_can_be_planned_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = {**read_config("digits.yaml", ["threads=1", "data.subset=3"]), "rows": ROWS}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(raw))
    command = ["--config", str(tmp_path / "job.yaml"), "--rows=uniform", "--seconds=0.1"]
    assert main(["plan", *command]) == 0
    shown = capsys.readouterr().out
    assert "uniform" in shown and "undefended" not in shown


def test_a_methods_columns_or_one_of_them(tmp_path: Path) -> None:
    """In a table ``METHOD`` is all its columns, ``METHOD/COLUMN`` one; cells of the others stay empty."""
    columns = {"clean": {"side": "standard"}, "weak": {}, "strong": {"attack": {"eps": 0.3}}}
    raw = {**read_config("digits.yaml", []), "rows": {k: ROWS[k] for k in ("undefended", "uniform")}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**raw, "table": {"columns": columns}}))
    quick = ["threads=1", "pictures=0", "wandb.mode=disabled", *QUICK[:-1], f"output={tmp_path / 'run'}"]
    command = ["evaluate", "--config", str(tmp_path / "job.yaml"), *quick]
    done = tmp_path / "run"
    assert main([*command, "--rows=uniform/strong"]) == 0
    assert {row["method"] for row in results(done)["rows"]} == {"uniform/strong"}
    assert main([*command, "--rows=undefended"]) == 0
    assert {row["method"] for row in results(done)["rows"]} == {
        "uniform/strong", "undefended/weak", "undefended/strong"
    }  # fmt: skip
    assert not (done / "uniform" / "weak").exists()
    table = json.loads((done / "table.json").read_text())
    assert len(table["rows"]) == 2
