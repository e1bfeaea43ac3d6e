"""The run folder's format: its schemas, its versions, and a folder that only the documentation helped to write."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hetpure.cli import main
from hetpure.errors import ConfigError
from hetpure.reports.plots.sweep import draw_grid
from hetpure.runs.claim import claim
from hetpure.runs.files import FORMAT_VERSION, format_version
from hetpure.runs.read import read_results, read_run, read_settings
from hetpure.runs.records import Record, RecordStore
from hetpure.runs.results import Report, TableRow, table_rows, write_results
from tests.runs.schemas import check_folder, validator

VERSION_1 = Path(__file__).parent / "version_1"
"""A run of ``demo.yaml`` with ``data.subset=4 attack.steps=2``, made before folders had a version."""


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
    assert main(["evaluate", "--config", "demo.yaml", *settings]) == 0
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
        ["evaluate", "--config", "demo.yaml", *settings],
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


# ---- a folder from the documentation alone


def by_hand(folder: Path) -> None:
    """A run as docs/run-folder.md describes it, with no code of this project."""
    config = {
        "seed": 0, "output": "runs/hand", "purifier": {"name": "mine"}, "rows": {"mine": {}},
        "protocols": {"resubmissions": 1, "votes": 0}, "honesty": {"images": 0},
        "ensemble": {"size": 1, "mode": "vote"}, "data": {"subset": 2}, "chunk_size": 8,
    }  # fmt: skip
    (folder / "mine" / "adversarial").mkdir(parents=True)
    (folder / "run.json").write_text('{"format_version": 2}')
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    np.savez(folder / "mine" / "adversarial" / "000003.npz", **{"3": np.zeros((3, 4, 4), np.float32)})
    lines = [
        {"index": 3, "protocol": "one-shot", "label": 1, "clean": [1], "clean_scores": [[0, 1]], "adversarial": [0],
         "adversarial_scores": [[1, 0]], "image": "adversarial/000003.npz"},
        {"index": 5, "protocol": "one-shot", "label": 0, "clean": [0], "clean_scores": [[1, 0]], "adversarial": [0],
         "adversarial_scores": [[1, 0]]},
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "mine" / "samples-000.jsonl").write_text(text)


def test_a_folder_written_by_hand_is_read_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand(tmp_path)
    assert check_folder(tmp_path) == 2
    (method,) = read_run(tmp_path).methods
    (row,) = method.rows
    assert (row.images, row.standard.value, row.robust.value) == (2, 1.0, 0.5)
    assert row.conditions.attack == "unknown", "only results.json would say it"
    image = method.store.adversarial(method.records[0])
    assert image is not None and image.shape == (3, 4, 4)
    assert main(["report", str(tmp_path)]) == 0
    assert "mine" in (tmp_path / "report.html").read_text()
