"""Tables of methods by columns: layout, what is absent, resuming, every form; and the paper's eight."""

import copy
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import wandb
import yaml

import hetpure.config
from hetpure.cli import main
from hetpure.config import PROJECT_ROOT, read_config, to_dict
from hetpure.data import ImageDataModule
from hetpure.errors import AbsentError, ConfigError
from hetpure.evaluation.config import complete
from hetpure.evaluation.departures import departures
from hetpure.evaluation.run import FREE
from hetpure.reports import dashboard
from hetpure.reports.tables.forms import Heading, TextTable, csv_text, escaped, latex, markdown
from hetpure.reports.tables.paper_table import PaperTable, TableCell, TableLine, build_table, numbers, plain, text_table
from hetpure.reports.tables.printed import PrintedAccuracy, printed_names, printed_table
from hetpure.runs.claim import claim
from hetpure.runs.read import read_run
from hetpure.runs.results import Accuracy, Report, TableRow, Verdict
from hetpure.runs.store import RecordStore
from tests.runs.schemas import check_folder

PAPER = [f"tables/table{n}.yaml" for n in range(1, 9)]
QUICK = {"name": "pgd", "norm": "Linf", "eps": 0.15, "steps": 2, "step_size": 0.1, "eot": 1}
TABLE: dict[str, Any] = {
    "title": "digits",
    "columns": {
        "standard": {"side": "standard"},
        "pgd_eot": {"title": "PGD+EOT"},
        "best": {"of": "pgd_eot", "protocol": "best of 2"},
        "bpda": {"attack": {"gradient": "bpda", "steps": 1}},
        "cost": {"side": "calls"},
    },
}
ROWS: dict[str, Any] = {
    "plain": {"purifier": {"name": "none"}, "columns": ["pgd_eot"]},
    "uniform": {
        "purifier": {"name": "uniform", "t": 0.02, "grid_size": 50},
        "columns": {"pgd_eot": {"attack": {"steps": 3}}},
    },
    "lost": {"classifier": {"weights": "nowhere.pt", "source": "https://example.org/a_b"}},
    "never": {"label": "A & B", "kind": "AP", "reason": "no public weights"},
}


def raw(table: dict[str, Any] | None = None, rows: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    base = {k: v for k, v in read_config("digits.yaml", []).items() if k not in ("rows", "attack")}
    base |= {"attack": QUICK, "table": TABLE if table is None else table, "rows": ROWS if rows is None else rows}
    base |= {"data": {"name": "digits", "subset": 8, "batch_size": 8}, "ensemble": {"size": 2, "mode": "mean_logits"}}
    base |= {"protocols": {"resubmissions": 2}, "chunk_size": 16, "threads": 1, "pictures": 0}
    return base | {"wandb": {"mode": "disabled"}} | changes


def evaluate(folder: Path, config: dict[str, Any], *overrides: str) -> int:
    folder.mkdir(exist_ok=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    code = main(["evaluate", "--config", str(folder / "job.yaml"), f"output={folder / 'run'}", *overrides])
    check_folder(folder / "run")
    return code


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    assert evaluate(folder, raw()) == 0
    return folder


# ---- layout


def test_each_method_is_a_row_for_each_column_that_is_evaluated() -> None:
    config = complete(raw())
    assert list(config.rows) == ["plain/pgd_eot", "uniform/pgd_eot", "uniform/bpda", "lost/pgd_eot", "lost/bpda"]
    rows, lines = config.rows, config.table.lines
    assert rows["plain/pgd_eot"].purifier["name"] == "none" and rows["plain/pgd_eot"].attack["steps"] == 2
    assert (rows["uniform/pgd_eot"].attack["steps"], rows["uniform/bpda"].attack["steps"]) == (3, 1)
    assert rows["uniform/bpda"].attack["gradient"]["name"] == "bpda"
    assert lines["uniform"]["cells"] == {
        "standard": "uniform/pgd_eot", "pgd_eot": "uniform/pgd_eot", "best": "uniform/pgd_eot", "bpda": "uniform/bpda",
        "cost": "uniform/pgd_eot",
    }  # fmt: skip
    assert set(lines["plain"]["cells"]) == {"standard", "pgd_eot", "best", "cost"} and lines["never"]["cells"] == {}
    assert complete(to_dict(config)) == config, "a saved config is laid out already"


def test_a_column_meets_every_rows_purifier_as_a_row_does() -> None:
    """Another purifier's surrogate is dropped, the row's own holds in every column, and so does how its runs join."""
    column = {"attack": {**QUICK, "name": "autoattack", "process": {"grid_size": 10}}}
    for key in ("step_size",):
        del column["attack"][key]
    rows = {
        "none": {"purifier": {"name": "none"}},
        "gns": {"purifier": {"name": "gns"}, "attack": {"process": {"t": [0.05], "network_calls": [1]}}},
        "heterogeneous": {},
    }
    config = raw({"columns": {"pgd": {}, "aa": column}}, rows, ensemble={"size": 2})
    config["attack"] = {**QUICK, "process": {"grid_size": 20}}
    found = complete(config).rows
    process = {name: row.attack["process"] for name, row in found.items()}
    assert process == {
        "none/pgd": {}, "none/aa": {},
        "gns/pgd": {"t": [0.05], "network_calls": [1]}, "gns/aa": {"t": [0.05], "network_calls": [1]},
        "heterogeneous/pgd": {"grid_size": 20}, "heterogeneous/aa": {"grid_size": 10},
    }  # fmt: skip
    modes = {name: row.ensemble.mode for name, row in found.items()}
    assert (modes["none/aa"], modes["gns/aa"], modes["heterogeneous/aa"]) == ("mean_logits", "vote", "vote")


STADV = {"attack": {"name": "stadv"}}


def test_threat_models_have_columns_of_their_own() -> None:
    columns = {"standard": {"side": "standard"}, "pgd": {}, "stadv": STADV}
    found = complete(raw({"columns": columns}, {"m": {}, "n": {"columns": ["stadv"]}})).rows
    norms = {name: (row.attack["norm"], row.attack["eps"]) for name, row in found.items()}
    assert norms["m/pgd"][0] == "Linf" and norms["m/stadv"] == norms["n/stadv"] == ("StAdv", 0.05)


@pytest.mark.parametrize(
    ("table", "rows", "said"),
    [
        ({"columns": {"a": {"sid": "robust"}}}, {}, "table.columns.a.sid: unknown key"),
        ({"columns": {"a": {"side": "left"}}}, {}, "table.columns.a.side: "),
        ({"columns": {"a": {}, "b": {"of": "c"}}}, {}, "table.columns.b.of is 'c'; accepted: a column"),
        ({"columns": {"a": {}, "b": {"of": "a", "attack": {"eps": 1}}}}, {}, "table.columns.b.attack: changes an ev"),
        ({"columns": {"a": {"side": "standard"}}}, {}, "table.columns: has no column that is evaluated"),
        ({"columns": {"a": {"side": "calls"}}}, {}, "table.columns: has no column that is evaluated"),
        ({"columns": {"a/b": {}}}, {}, "table.columns.a/b is 'a/b'; accepted: letters"),
        ({"columns": {"a": {"protocol": "best of 9"}}}, {}, "table.columns.a.protocol is 'best of 9'; accepted"),
        ({"columns": {"a": {"attack": {"epsilon": 1}}}}, {}, "table.columns.a.attack.epsilon: unknown key"),
        ({"columns": {"a": 3}}, {}, "table.columns.a is 3; accepted: a section"),
        ({"columns": 3}, {}, "table.columns is 3"),
        ({"title": "t"}, {}, "table.columns: is empty"),
        ({"printed": "table9", "columns": {"a": {}}}, {}, "table.printed is 'table9'; accepted: table1"),
        ({"columns": {"a": {}}}, {"m": {"printed": "x"}}, "rows.m.printed is 'x'"),
        ({"printed": "table1", "columns": {"a": {}}}, {"m": {"printed": "Pang"}}, "did you mean 'Pang et al. 2022'?"),
        ({"columns": {"a": {}}}, {"m.n": {}}, "rows.m.n is 'm.n'; accepted: letters"),
        ({"columns": {"a": {}}}, {"m": {"columns": ["b"]}}, "rows.m.columns is 'b'; accepted: a"),
        ({"columns": {"a": {}}}, {"m": {"columns": 3}}, "rows.m.columns is 3"),
        ({"columns": {"a": {}}}, {"m": {"columns": {"a": {"seed": 1}}}}, "rows.m.columns.a.seed: unknown key"),
        ({"columns": {"a": {}}}, {"m": {"cells": {}}}, "rows.m.cells: is made by the table"),
        ({"columns": {"a": {}}}, {"m": {"purifier": {"name": "uniform", "tt": 1}}}, "rows.m.purifier.tt: unknown key"),
        ({"columns": {"a": {}}}, {"m": {"seed": 1}}, "rows.m.seed: is the same for all rows"),
        ({"columns": {"a": {}}}, {"m": {"reason": ["x"]}}, "rows.m.reason"),
        ({"columns": {"a": {}}}, {"m": {"columns": {"a": STADV}}, "n": {}}, "columns.a: has attacks of Linf, StAdv"),
        ({"rows": 1}, {}, "table.rows: unknown key"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_is_one_line(table: dict, rows: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        complete(raw(table, rows or {"m": {}}))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_table_what_is_absent_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {**raw(rows={"lost": ROWS["lost"]}), "table": {}}
    assert evaluate(tmp_path, config) == 2
    assert capsys.readouterr().err.startswith("error: rows.lost.classifier.weights: nowhere.pt: no such file")
    assert evaluate(tmp_path, {**raw(rows={"m": {"printed": "x"}}), "table": {}}) == 2
    assert "printed: unknown key" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "../x", "/abs", "a//b", "a/.", "a/honesty", "wandb", "report.html", "a/x\n"])
def test_a_rows_name_stays_in_the_runs_folder(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        complete({**raw(rows={name: {}}), "table": {}})
    assert str(caught.value).startswith(f"rows: the name {name!r} cannot be used; accepted: one or more")
    assert caught.value.key == "rows"


# ---- what runs, and what does not


def test_what_is_here_runs_and_what_is_not_says_why(done: Path) -> None:
    found = json.loads((done / "run" / "table.json").read_text())
    by_name = {row["method"]: row for row in found["rows"]}
    assert list(by_name) == ["plain", "uniform", "lost", "A & B"]
    assert found["columns"] == ["standard", "pgd_eot", "best", "bpda", "cost"]
    records = RecordStore(done / "run" / "uniform" / "bpda", ["one-shot", "best of 2"]).read()
    right = sum(bool(r.right("adversarial")) for r in records if r.protocol == "one-shot")
    cell = by_name["uniform"]["cells"]["bpda"]["measured"]
    assert (cell["value"], cell["count"]) == (right / 8, 8) and cell["low"] < cell["high"]
    both = RecordStore(done / "run" / "uniform" / "pgd_eot", ["one-shot", "best of 2"]).read()
    best = sum(bool(r.right("adversarial")) for r in both if r.protocol == "best of 2")
    assert by_name["uniform"]["cells"]["best"]["measured"]["value"] == best / 8
    costs = {name: row["cells"]["cost"].get("calls") for name, row in by_name.items()}
    assert costs == {"plain": 0, "uniform": 2 * 1, "lost": None, "A & B": None}  # S = 2, one step from t = 0.02
    assert "| uniform |" in (text := (done / "run" / "table.md").read_text()) and " | 2 |" in text
    assert by_name["plain"]["cells"]["bpda"] == {"printed": None, "measured": None, "reason": None}
    reason = "classifier.weights: nowhere.pt: no such file; it comes from https://example.org/a_b"
    assert by_name["lost"]["reason"] == reason and by_name["A & B"]["reason"] == "no public weights"
    assert not (done / "run" / "lost").exists()
    report = read_run(done / "run").report
    assert report.missing == {"lost/pgd_eot": [reason], "lost/bpda": [reason]} and not report.departures
    (pgd, bpda) = (note for note in found["notes"] if "PGD Linf" in note)
    assert pgd.startswith("PGD+EOT: ") and "2 steps of 0.1" in pgd and "(plain)" in pgd and "(uniform)" in pgd
    assert bpda.startswith("bpda: ") and "gradients BPDA" in bpda


def test_what_is_done_is_not_run_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {file: file.read_bytes() for file in sorted(done.glob("run/*/*/samples-*.jsonl"))}
    assert len(files) == 3
    table = (done / "run" / "table.md").read_text()
    assert evaluate(done, raw()) == 0
    assert "uniform/bpda: all 8 images are done already" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in files} == files
    assert (done / "run" / "table.md").read_text() == table


def test_a_row_that_lost_its_weights_keeps_its_figures_and_their_identity(tmp_path: Path, capsys) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes((PROJECT_ROOT / "checkpoints/digits/classifier/model.safetensors").read_bytes())
    table = {"columns": {"standard": {"side": "standard"}, "pgd": {}}}
    rows = {"mine": {"purifier": {"name": "none"}, "classifier": {"weights": str(weights)}}, "never": {"reason": "x"}}
    assert evaluate(tmp_path, raw(table, rows)) == 0
    before = json.loads((tmp_path / "run" / "table.json").read_text())["rows"][0]
    conditions = [row.conditions for row in read_run(tmp_path / "run").report.rows]
    kept = weights.read_bytes()
    weights.unlink()
    assert evaluate(tmp_path, raw(table, {**rows, "other": {"purifier": {"name": "none"}}})) == 0
    after = json.loads((tmp_path / "run" / "table.json").read_text())["rows"][0]
    assert after["cells"] == before["cells"] and "measured before; now: classifier.weights: " in after["note"]
    assert [row.conditions for row in read_run(tmp_path / "run").report.rows][: len(conditions)] == conditions
    weights.write_bytes(kept[:-4] + b"\x00\x00\x00\x01")
    assert evaluate(tmp_path, raw(table, rows)) == 2
    assert "rows.mine/pgd.classifier was " in capsys.readouterr().err


def test_a_table_that_nothing_is_here_for_now_keeps_the_settings_of_its_records(tmp_path: Path, capsys) -> None:
    table, rows = {"columns": {"pgd": {}}}, {"plain": {"purifier": {"name": "none"}, "classifier": {}}}
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes((PROJECT_ROOT / "checkpoints/digits/classifier/model.safetensors").read_bytes())
    config = raw(table, rows, chunk_size="auto", attack={**QUICK, "steps": 1, "recompute": "auto"})
    config["classifier"] = {**config["classifier"], "weights": str(weights)}
    assert evaluate(tmp_path, config) == 0
    weights.unlink()
    before = (tmp_path / "run" / "table.md").read_text()
    capsys.readouterr()
    assert evaluate(tmp_path, config, "attack.steps=999", "seed=5") == 2
    said = capsys.readouterr().err
    assert "seed was 0, is 5" in said and "attack.steps was 1, is 999" in said and said.count("\n") == 1
    assert (tmp_path / "run" / "table.md").read_text() == before
    assert evaluate(tmp_path, config) == 0, "what was chosen for rows that are absent now stays chosen"
    assert "measured before; now: classifier.weights: " in (tmp_path / "run" / "table.md").read_text()


def test_a_choice_that_an_absent_row_left_open_is_made_when_it_comes(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    own = {"purifier": {"name": "none"}, "classifier": {"weights": str(weights)}}
    config = raw({"columns": {"pgd": {}}}, {"plain": {"purifier": {"name": "none"}}, "late": own})
    config |= {"chunk_size": "auto", "attack": {**QUICK, "steps": 1, "recompute": "auto"}}
    assert evaluate(tmp_path, config) == 0
    chosen = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["rows"]
    assert chosen["late/pgd"]["attack"]["recompute"] == "auto"
    weights.write_bytes((PROJECT_ROOT / "checkpoints/digits/classifier/model.safetensors").read_bytes())
    assert evaluate(tmp_path, config) == 0
    weights.unlink()
    assert evaluate(tmp_path, config) == 0


def test_addresses_and_places_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    def saved(change: str) -> dict[str, Any]:
        network = {"name": "a", "weights": f"w{change}", "source": f"s{change}"}
        sections = {key: {"source": change, **network} for key in ("classifier", "denoiser")}
        sections["purifier"] = {"network": network}
        return {**sections, "rows": {"m": copy.deepcopy(sections), "m/pgd": sections}}

    free = (*FREE, "denoiser.weights", "rows.*.denoiser.weights")
    claim(tmp_path, saved("1"), free)
    claim(tmp_path, saved("2"), free)
    other = saved("2")
    other["rows"]["m"]["purifier"]["network"]["name"] = "b"
    with pytest.raises(ConfigError, match=r"\(rows\.m\.purifier\.network\.name was 'a', is 'b'\)"):
        claim(tmp_path, other, free)


def test_absent_data_are_one_reason_for_all_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = raw(data={"name": "folder", "root": str(tmp_path / "no_folder"), "subset": 8})
    assert evaluate(tmp_path, config) == 0
    rows = json.loads((tmp_path / "run" / "table.json").read_text())["rows"]
    assert "which is no folder" in rows[0]["reason"] and rows[0]["reason"] == rows[1]["reason"]
    assert rows[2]["reason"].startswith("classifier.weights: nowhere.pt")
    assert "Nothing was measured" in capsys.readouterr().out
    assert evaluate(tmp_path, {**config, "seed": 5}) == 0, "a folder without results belongs to no config"


def test_a_package_that_is_not_installed_is_a_cells_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from hetpure.attacks import autoattack

    def missing(module: str, key: str) -> None:
        raise AbsentError(key, "needs the package pyautoattack")

    monkeypatch.setattr(autoattack, "published", missing)
    attack = {"name": "autoattack", "version": "standard", "steps": 1}
    config = complete(raw({"columns": {"pgd": {}, "aa": {"attack": attack}}}, {"m": {}}))
    assert list(config.rows) == ["m/pgd"]
    table = build_table(to_dict(config), Report("t", []))
    assert table.lines[0].cells["aa"].reasons == ["attack.version: needs the package pyautoattack"]


def test_a_mistake_is_an_error_also_beside_what_is_absent(tmp_path: Path, capsys) -> None:
    rows = {"lost": ROWS["lost"], "bad": {"purifier": {"name": "uniform", "t": 7.0}}}
    assert evaluate(tmp_path, raw(rows=rows)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and "purifier.t" in errors and errors.count("\n") == 1


# ---- forms


def small() -> PaperTable:
    measured = Accuracy(0.5, 0.25, 0.75, 16)
    cells = {
        "standard": TableCell(PrintedAccuracy(93.16, 0.21), measured),
        "aa": TableCell(None, None, ("needs a_package & 100 % more",)),
    }
    lines = [
        TableLine(
            "AT one",
            "AT",
            {"standard": TableCell(PrintedAccuracy(88.5)), "aa": TableCell(PrintedAccuracy(9.0))},
            True,
            ("gone",),
        ),
        TableLine("ours_1 (t*=0.2) | x", "AP", cells, True, (), "a note"),
    ]
    columns = {"standard": "standard", "aa": "Auto_Attack"}
    return PaperTable("a title, 8/255 & more", "16 images", columns, frozenset(columns), lines, ["last"], ["WATCH OUT"])


def test_markdown_has_one_cell_a_column_and_footnotes() -> None:
    text = markdown(text_table(small()))
    assert text.startswith("**WATCH OUT**\n")
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in body}) == 1
    assert "| AT | AT one<sup>1</sup> | 88.50 | – | 9.00 | – |" in body
    assert r"| AP | ours_1 (t*=0.2) \| x<sup>2</sup> | 93.16 ± 0.21 | 50.00 [25.0, 75.0] | - | –<sup>3</sup> |" in body
    assert "n = 16 in each measured cell" in text
    assert "<sup>3</sup> needs a_package & 100 % more" in text and "* last" in text


def test_latex_is_escaped_and_balanced() -> None:
    assert escaped(r"a_b & 100 % #1 {x} $y$ ~ ^ \z ± –") == (
        r"a\_b \& 100 \% \#1 \{x\} \$y\$ \textasciitilde{} \textasciicircum{} \textbackslash{}z $\pm$ --"
    )
    text = latex(text_table(small()))
    for begin, end in (("{", "}"), (r"\begin", r"\end")):
        assert len(re.findall(rf"(?<!\\){re.escape(begin)}", text)) == len(
            re.findall(rf"(?<!\\){re.escape(end)}", text)
        )
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in rows] == [5, 5]
    assert r"ours\_1 (t*=0.2) \textbar{} x\textsuperscript{2} & 93.16 $\pm$ 0.21 & 50.00 [25.0, 75.0] & - & --" in text
    assert r"\multicolumn{2}{c}{Auto\_Attack}" in text and r"\cmidrule(lr){3-4} \cmidrule(lr){5-6}" in text
    assert "WATCH OUT" in text[: text.index(r"\begin{table}")] and "\x00" not in text and text.isascii()


def test_csv_and_json_hold_numbers(done: Path) -> None:
    header, lines = numbers(small())
    assert header[:7] == ["kind", "method", "standard_printed", "standard_printed_std", "standard_measured",
                          "standard_low", "standard_high"]  # fmt: skip
    assert lines[1][2:8] == [93.16, 0.21, 50.0, 25.0, 75.0, 16]
    cells = plain(small())["rows"][1]["cells"]
    assert cells["standard"] == {
        "printed": [93.16, 0.21],
        "measured": {"value": 0.5, "low": 0.25, "high": 0.75, "count": 16},
        "reason": None,
    }
    with (done / "run" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = json.loads((done / "run" / "table.json").read_text())["rows"][1]["cells"]["pgd_eot"]["measured"]
    assert float(rows[1]["pgd_eot_measured"]) == 100 * measured["value"]
    assert rows[3]["method"] == "A & B" and rows[3]["reason"] == "no public weights"


def test_the_terminal_shows_the_same(tmp_path: Path, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(done, raw()) == 0
    shown = capsys.readouterr().out
    for part in ("digits", "PGD+EOT", "uniform", "A & B ²", "lost ¹", "² no public weights", "n = 8 in each"):
        assert part in shown


def test_wandb_gets_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, Any] = {}

    run = MagicMock()
    run.log = lambda items: logged.update({k: v for k, v in items.items() if isinstance(v, wandb.Table)})
    monkeypatch.setattr(dashboard, "wandb_mode", lambda _: "offline")
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    assert evaluate(tmp_path, raw({"columns": {"pgd": {}}}, {"plain": ROWS["plain"] | {"columns": ["pgd"]}})) == 0
    assert set(logged) == {"table", "results"}
    assert logged["table"].columns[:4] == ["kind", "method", "pgd_measured", "pgd_low"]
    assert logged["table"].data[0][1] == "plain"


def test_failing_honesty_checks_and_other_settings_stand_above_the_table() -> None:
    config = complete(raw({"printed": "table1", "columns": {"pgd_eot": {}}}, {"pang": {"printed": "Pang et al. 2022"}}))
    row = TableRow("pang/pgd_eot", 8, 8, Accuracy(1.0, 0.6, 1.0, 8), Accuracy(0.5, 0.2, 0.8, 8), 1.0)
    verdicts = {"pang/pgd_eot": [Verdict("gradients", False, "zero")]}
    report = Report("8 images", [row], [], verdicts, departures=departures(config))
    table = build_table(to_dict(config), report)
    assert "FAILS ITS HONESTY CHECKS (pang/pgd_eot: gradients)" in table.warnings[0]
    assert "Not the paper's settings: " in table.warnings[1] and "data.name was 'hfds/uoft-cs/cifar10'" in str(
        table.warnings[1]
    )
    assert table.lines[0].cells["pgd_eot"].printed == PrintedAccuracy(64.95)
    assert markdown(text_table(table)).startswith("**THIS REPORT FAILS")


def test_the_mean_of_two_accuracies_has_an_interval_that_is_wide_enough() -> None:
    config = complete(raw({"columns": {"pgd": {}, "mean": {"side": "average", "of": "pgd"}}}, {"m": {}}))
    row = TableRow("m/pgd", 8, 8, Accuracy(1.0, 0.6, 1.0, 8), Accuracy(0.5, 0.2, 0.8, 8), 1.0)
    found = build_table(to_dict(config), Report("t", [row])).lines[0].cells["mean"].measured
    assert found == Accuracy(0.75, pytest.approx(0.4), pytest.approx(0.9), 8)


# ---- the paper's


def test_printed_figures_are_whole() -> None:
    assert printed_names() == [f"table{n}" for n in range(1, 9)]
    assert [len(printed_table(name).rows) for name in printed_names()] == [10, 11, 11, 9, 10, 11, 5, 8]
    ours = printed_table("table1").rows["heterogeneous (the paper)"].accuracies
    assert [str(figure) for figure in ours.values()] == ["93.16 ± 0.21", "59.38 ± 1.25", "80.45 ± 1.54"]
    assert printed_table("table4").rows["Yoon et al. 2021 (ADP)"].accuracies["pgd_eot"] == PrintedAccuracy(75.666, 1.29)
    assert printed_table("table1").rows["Lin et al. 2024 (AToP)"].accuracies["pgd_eot"] is None


@pytest.mark.parametrize("name", PAPER)
def test_every_row_of_the_paper_renders_with_nothing_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hetpure.config, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(ImageDataModule, "prepare", lambda self: pytest.fail("data were opened without need"))
    assert main(["evaluate", "--config", name, "output=out"]) == 0
    paper = printed_table(name.removeprefix("tables/").removesuffix(".yaml"))
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert table["columns"] == list(paper.columns)
    assert [row["method"] for row in table["rows"] if row["method"] in paper.rows] == list(paper.rows)
    for row in table["rows"]:
        assert row["reason"], row["method"]
        printed = paper.rows.get(row["method"])
        for column, cell in row["cells"].items():
            figure = printed.accuracies[column] if printed else None
            assert cell["measured"] is None
            assert cell["printed"] == (
                figure and ([figure.value, figure.deviation] if figure.deviation else figure.value)
            )
    assert (tmp_path / "out" / "table.tex").read_text().isascii()
    assert "Nothing was measured" in capsys.readouterr().out
    assert not any("EOT" in note for note in table["notes"]), "how nothing was measured"
    assert read_run(tmp_path / "out").methods == []
    assert "no row could be evaluated" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("name", ["tables/table5.yaml", "tables/table8.yaml"])
def test_its_own_settings_are_the_papers(name: str) -> None:
    steps = complete({**read_config(name, []), "output": "unused"}).attack["steps"]
    config = complete({**read_config(name, ["data.subset=16", "attack.steps=3", "threads=1"]), "output": "unused"})
    assert departures(config) == ["data.subset was 512, is 16", f"attack.steps was {steps}, is 3"]
    moved = [f"{key}=elsewhere" for key in ("data.root", "classifier.weights", "denoiser.path")]
    config = complete({**read_config(name, ["data.subset=16", "hang_minutes=5", *moved]), "output": "unused"})
    assert departures(config) == ["data.subset was 512, is 16"]


def test_text_cannot_break_out_of_a_table() -> None:
    """Names of rows and reasons come from users: bars, line breaks, commands and formulas stay text."""
    line = ["=1+1|a\\|b\nc", "[x]", "-"]
    table = TextTable("t\nt", [Heading("a|b", words=True), Heading("@c"), Heading("d")], [line], notes=["n\r\nm"])
    shown = markdown(table)
    assert shown.splitlines()[0] == "**t t**" and shown.splitlines()[-1] == "* n m"
    assert r"| a\|b | @c | d |" in shown and r"| =1+1\|a\\\|b c | [x] | - |" in shown
    lines = latex(replace(table, lines=[line, [*line[1:], ""]], warnings=["w\n\\input{x}"])).splitlines()
    assert lines[1] == r"% w \input{x}" and r"{}[x] & - &  \\" in lines
    assert r"=1+1\textbar{}a\textbackslash{}\textbar{}b c & [x] & - \\" in lines
    header, *cells = csv.reader(io.StringIO(csv_text(["+a", "b"], [line, ["@f", -1.5], ["-x", None], ["a=b", 3]])))
    assert header == ["'+a", "b"]
    assert cells == [["'=1+1|a\\|b c", "[x]", "-"], ["'@f", "-1.5"], ["'-x", ""], ["a=b", "3"]]
