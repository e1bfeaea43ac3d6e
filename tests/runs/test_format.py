"""The run folder's format: its schemas, its versions, and a folder that only the documentation helped to write."""

import dataclasses
import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hetpure.cli import main
from hetpure.errors import ConfigError, RunError
from hetpure.reports.plots.sweep import draw_grid
from hetpure.runs.claim import claim
from hetpure.runs.files import FORMAT_VERSION, format_version
from hetpure.runs.read import read_results, read_run, read_settings
from hetpure.runs.records import Record
from hetpure.runs.results import Report, TableRow, table_rows, write_results
from hetpure.runs.store import RecordStore
from tests.runs.schemas import check_folder, validator

VERSION_1 = Path(__file__).parent / "version_1"
"""A run of ``digits.yaml`` with ``data.subset=4 attack.steps=2``, made before folders had a version."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(VERSION_1, tmp_path / "old"))


# ---- schemas


def test_schemas_have_the_fields_of_the_dataclasses() -> None:
    record, results = validator("record").schema, validator("results").schema
    assert list(record["properties"]) == [field.name for field in dataclasses.fields(Record)]
    assert set(results["$defs"]["row"]["properties"]) == {field.name for field in dataclasses.fields(TableRow)}


def test_what_is_written_fits_the_schemas(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "row")
    image = {7: np.zeros((1, 2, 2), np.float32)}
    chunks = {"attack": 4, "defense": 8}
    done = Record(7, "one-shot", 1, [1], [[0.1, 0.9]], [0], [[0.6, 0.4]], [1.5], [0.1], [0.5], 0.2, 3, 2, chunks)
    store.append([dataclasses.replace(done, image=store.image_name(image))], image)
    store.append([Record(8, "one-shot", 0, [], [], failure="not finite")])
    rows = [*table_rows("row", store.read(), 3, ["one-shot"]), *table_rows("other", [], 3, ["one-shot"])]
    report = Report(
        "t", rows, ["a note"], {}, {"row": "1 of 2 images"}, {"absent": ["no weights"]}, ["seed was 0, is 1"]
    )
    write_results(report, tmp_path)
    assert check_folder(tmp_path) == 2
    back = read_results(tmp_path)
    assert str(back.rows[0]) == str(rows[0]) and back.missing == report.missing and back.warning == report.warning
    assert list(back.departures) == list(report.departures)


@pytest.mark.parametrize(
    "change", [{"index": -1}, {"clean": ["7"]}, {"attack_correct": [1.5]}, {"image": "../x.npz"}, {"colour": "red"}]
)
def test_schemas_refuse_what_no_record_is(change: dict[str, Any]) -> None:
    line = {**dataclasses.asdict(Record(7, "one-shot", 1, [1], [[0.1, 0.9]])), **change}
    assert not validator("record").is_valid(line)


# ---- versions


def test_a_folder_of_version_1_is_read_and_shown(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert format_version(old) == 1
    assert check_folder(old) == 12
    run = read_run(old)
    assert [method.name for method in run.methods] == ["undefended", "uniform", "heterogeneous"] and not run.problems
    assert [row.images for row in run.report.rows] == [4, 4, 4]
    assert [str(row.robust) for row in run.report.rows] == [str(row.robust) for row in read_results(old).rows]
    assert main(["report", str(old)]) == 0 and (old / "report.html").is_file()


def test_a_run_of_version_1_goes_on(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = {file: file.read_bytes() for file in old.glob("*/samples-*.jsonl")}
    settings = ["data.subset=4", "attack.steps=2", "wandb.mode=disabled", "threads=1", f"output={old}"]
    assert main(["evaluate", "--config", "digits.yaml", *settings]) == 0
    assert "all 4 images are done already" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in old.glob("*/samples-*.jsonl")} == lines
    assert format_version(old) == FORMAT_VERSION


def test_purifier_keys_of_version_1_are_upgraded(old: Path) -> None:
    """A figure opens the folder again; showing it and going on with it are tested above."""
    assert yaml.safe_load((old / "config.yaml").read_text())["purifier"]["steps"] == 50
    config = read_settings(old)
    assert "steps" not in config["purifier"] and config["purifier"]["grid_size"] == 50
    assert config["rows"]["uniform"]["purifier"]["grid_size"] == 50
    assert config["attack"]["steps"] == 2
    assert main(["figures", "joint", str(old)]) == 0
    (old / "run.json").write_text(json.dumps({"format_version": 2}))
    assert read_settings(old)["purifier"]["steps"] == 50, "version 2 has no old keys"


def test_a_sweep_of_version_1_is_drawn_by_its_old_rows(old: Path) -> None:
    """Its rows are folders named after the key of that time."""
    config = yaml.safe_load((old / "config.yaml").read_text())
    rows = {f"steps={steps}": {"purifier": {"name": "uniform", "steps": steps}} for steps in (20, 50)}
    config |= {"rows": rows, "grid": {"purifier.steps": [20, 50]}}
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    (old / "results.json").unlink()
    for name in rows:
        shutil.copytree(old / "uniform", old / name)
    run = read_run(old)
    assert [method.settings["purifier"]["grid_size"] for method in run.methods] == [20, 50]
    assert draw_grid(run) and (old / "sweep.png").is_file()


def test_a_newer_version_is_refused_in_one_line(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old / "run.json").write_text(json.dumps({"format_version": FORMAT_VERSION + 1}))
    settings = ["data.subset=4", "attack.steps=2", "wandb.mode=disabled", "threads=1", f"output={old}"]
    for command in (
        ["report", str(old)],
        ["aggregate", str(old), str(old)],
        ["figures", "joint", str(old)],
        ["report", str(old), "--over", "seed", "--output", str(old / "x.png")],
        ["evaluate", "--config", "digits.yaml", *settings],
    ):
        assert main(command) == 2
        errors = capsys.readouterr().err
        assert f"has format version {FORMAT_VERSION + 1}, newer than the {FORMAT_VERSION}" in errors
        assert errors.count("\n") == 1


def test_a_claimed_folder_says_its_version(tmp_path: Path) -> None:
    from hetpure.evaluation.config import complete

    claim(
        tmp_path / "run",
        complete({"output": "x", "classifier": {"name": "cifar_resnet8"}, "purifier": {"name": "none"}}),
    )
    assert json.loads((tmp_path / "run" / "run.json").read_text())["format_version"] == FORMAT_VERSION
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="format_version is None"):
        read_run(tmp_path / "run")


def test_a_folder_that_cannot_be_written_stops_a_run_and_a_file_is_bad_input(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"^output is .*file.*is no folder"):
            claim(folder, {})

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match=r"^output: .*run cannot be written: Permission denied"):
        claim(tmp_path / "run", {})


# ---- a folder from the documentation alone

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "run-folder.md").read_text()


def test_the_smallest_folder_of_the_documentation_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file as it stands on the page: its name, then its content, indented."""
    for name, content in re.findall(r"^`(mine/[^`]+)`:\n\n((?:    .*\n)+)", PAGE, re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(content))
    assert check_folder(tmp_path / "mine") == 1
    assert main(["report", str(tmp_path / "mine")]) == 0
    assert "0.00 [0.0, 79.3]" in capsys.readouterr().out, "one sample, which the attack broke"


def by_hand(folder: Path) -> None:
    """A run with every file that docs/reference/run-folder.md describes, written without any code of this project."""

    def line(index: int, **values: Any) -> str:
        record = {"index": index, "protocol": "one-shot", "label": 1, "clean": [1], "clean_scores": [[0, 1]]}
        return json.dumps({**record, **values}) + "\n"

    attacked = {"adversarial": [0], "adversarial_scores": [[1, 0]], "attack_loss": [0.1, 0.7], "gradient_size": [1, 2]}
    attacked |= {"attack_correct": [1, 0.5], "seconds": 2.5, "seed": 7, "draws": 4, "chunks": {"attack": 8}}
    twice = {"protocol": "best of 2", "clean": [1, 1], "clean_scores": [[0, 1]] * 2, "adversarial": [1, 0]}
    row = folder / "mine" / "pgd"
    (row / "adversarial").mkdir(parents=True)
    (row / "honesty" / "huge_eps").mkdir(parents=True)
    config = {
        "seed": 7,
        "purifier": {"name": "mine"},
        "rows": {"mine/pgd": {}, "absent": {"purifier": {"name": "theirs"}}},
        "protocols": {"resubmissions": 2, "votes": 0},
        "honesty": {"images": 1},
        "ensemble": {"mode": "vote"},
    }
    row_of_table = {"method": "mine/pgd", "protocol": "one-shot", "images": 2, "failed": 1, "total": 4, "seconds": 3.5}
    row_of_table |= {side: {"value": None, "low": None, "high": None, "count": 0} for side in ("standard", "robust")}
    row_of_table |= {"conditions": {"attack": "PGD of mine", "gradients": "exact", "eot": 2, "ensemble": 4}}
    results = {
        "format_version": 2,
        "title": "a run by hand",
        "rows": [row_of_table],
        "notes": ["written by hand"],
        "honesty": {"mine/pgd": [{"check": "huge eps", "passed": False, "details": "1 of 1 right"}]},
        "missing": {"absent": ["no weights"]},
    }
    (folder / "run.json").write_text('{"format_version": 2}')
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "content.yaml").write_text("data: {images: 67da1755bee97a23}\n")
    (folder / "results.json").write_text(json.dumps(results))
    clean = np.full((3, 4, 4, 3), 128, np.uint8)
    np.savez(folder / "samples.npz", indices=np.array([3, 5, 9, 11]), classes=np.array(["cat", "dog"]), clean=clean)
    np.savez(row / "adversarial" / "000003.npz", **{"3": np.zeros((3, 4, 4), np.float32)})
    panels = {"panel0": clean[:1], "panel1": clean[:1, :, :, :1]}
    np.savez(row / "pictures.npz", index=np.array([3]), names=np.array(["clean", "mask"]), amplification=5.0, **panels)
    first = line(3, **attacked, image="adversarial/000003.npz") + line(3, **twice)
    (row / "samples-000.jsonl").write_text(first + line(9, clean=[], clean_scores=[], failure="not finite"))
    second = line(9, protocol="best of 2", clean=[], clean_scores=[], failure="not finite") + line(5, adversarial=[1])
    again = (
        line(3, **attacked, image="adversarial/000003.npz")
        + line(5, **{**twice, "adversarial": [1, 1]})
        + line(11, adversarial=[1])
    )
    (row / "samples-001.jsonl").write_text(second + again + line(11, **twice)[:40])  # and killed
    (row / "honesty" / "huge_eps" / "samples-000.jsonl").write_text(line(3, adversarial=[1]))


def test_a_folder_written_by_hand_is_read_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand(tmp_path)
    assert check_folder(tmp_path) == 9
    run = read_run(tmp_path)
    (method,) = run.methods
    assert not run.problems and run.report.missing == {"absent": ["no weights"]}
    shown = [(row.protocol, row.images, row.failed, row.total, row.robust.value) for row in method.rows]
    assert shown == [("one-shot", 2, 1, 4, 0.5), ("best of 2", 2, 1, 4, 0.5)]
    assert method.records[0].attack_loss == [0.1, 0.7], "of a record that occurs twice the first counts"
    assert [len(records) for records in method.variants.values()] == [1]
    image = method.store.adversarial(method.records[0])
    assert image is not None and image.shape == (3, 4, 4) and method.pictures is not None
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 3 + 1 + 2, "clean, adversarial, two panels"
    for text in ("a run by hand", "PGD of mine", "written by hand", "FAILS ITS HONESTY CHECKS", "1 of 1 right", "dog"):
        assert text in page
    assert "unfinished" not in page and "not finished (mine/pgd: 3 of 4 images)" in page
    assert {file.name for file in tmp_path.glob("results.*")} == {
        "results.json",
        "results.csv",
        "results.md",
        "results.tex",
    }


def test_without_results_json_a_reader_knows_less(tmp_path: Path) -> None:
    by_hand(tmp_path)
    (tmp_path / "results.json").unlink()
    run = read_run(tmp_path)
    assert [method.name for method in run.methods] == ["mine/pgd", "absent"], "who knows what could not be evaluated?"
    assert run.methods[0].rows[0].conditions.attack == "unknown" and run.methods[0].rows[0].total == 4


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("3", "config.yaml is not a mapping of keys"),
        ("{a: [", "config.yaml cannot be read"),
        ("{rows: {}}", "purifier is not a section of keys"),
        ("{purifier: {name: a}, rows: [a]}", "rows is not a section of keys"),
        ("{purifier: {name: a}, rows: {b: 3}}", "rows.b is not a section of keys"),
        ("{purifier: {name: a}, rows: {../b: {}}}", "'../b' cannot be used"),
        (None, "it has no config.yaml"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_in_one_line(
    config: str | None, problem: str, tmp_path: Path, capsys
) -> None:
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    assert main(["report", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert problem in errors and errors.count("\n") == 1
