"""A table's column of the worst case over several others: layout, choice, resuming, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hetpure.attacks import autoattack
from hetpure.attacks.gradients import Evaluation, ExactGradient
from hetpure.attacks.pgd import PGD
from hetpure.cli import main
from hetpure.config import read_config, to_dict
from hetpure.data import ImageDataModule
from hetpure.data.items import item
from hetpure.errors import AbsentError, ConfigError
from hetpure.evaluation.build import build_rows
from hetpure.evaluation.config import complete
from hetpure.evaluation.run import run
from hetpure.runs.read import read_run
from tests.evaluation import jobs, kills, slow_evaluate
from tests.runs.schemas import check_folder

UNIFORM = {"name": "uniform", "t": 0.1, "grid_size": 20}
QUICK = {"name": "pgd", "norm": "Linf", "eps": 0.2, "steps": 1, "step_size": 0.2, "eot": 1}
COLUMNS: dict[str, Any] = {
    "worst": {"title": "worst case", "worst": ["pgd", "bpda"]},
    "pgd": {},
    "bpda": {"attack": {"gradient": "bpda"}},
    "best": {"of": "worst", "protocol": "best of 2"},
}
ROWS: dict[str, Any] = {"plain": {"purifier": {"name": "none"}, "columns": ["pgd"]}, "uniform": {"purifier": UNIFORM}}


def raw(columns: dict[str, Any] = COLUMNS, rows: dict[str, Any] = ROWS, **changes: Any) -> dict[str, Any]:
    base = {k: v for k, v in read_config("digits.yaml", []).items() if k not in ("rows", "attack")}
    base |= {"attack": QUICK, "table": {"columns": columns}, "rows": rows, "ensemble": {"size": 1}}
    base |= {"data": {"name": "digits", "subset": 4, "batch_size": 2}, "protocols": {"resubmissions": 2}}
    return base | {"chunk_size": 8, "threads": 1, "pictures": 0, "wandb": {"mode": "disabled"}} | changes


def evaluate(folder: Path, *overrides: str, **changes: Any) -> int:
    folder.mkdir(exist_ok=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(raw(**changes), sort_keys=False))
    code = main(["evaluate", "--config", str(folder / "job.yaml"), f"output={folder / 'run'}", *overrides])
    if (folder / "run").exists():
        check_folder(folder / "run")
    return code


def records(run: Path) -> dict[tuple, tuple]:
    return kills.records_of(run / "uniform")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worst")
    assert evaluate(folder) == 0
    return folder


def test_a_method_with_two_of_the_columns_has_a_row_after_theirs() -> None:
    config = complete(raw())
    assert list(config.rows) == ["plain/pgd", "uniform/pgd", "uniform/bpda", "uniform/worst"]
    worst, lines = config.rows["uniform/worst"], config.table.lines
    assert worst.attack | {"name": "strongest_of", "norm": "Linf", "eps": 0.2, "evaluations": 20} == worst.attack
    assert worst.attack["rows"] == ["uniform/pgd", "uniform/bpda"] and worst.purifier["name"] == "uniform"
    assert lines["uniform"]["cells"]["worst"] == lines["uniform"]["cells"]["best"] == "uniform/worst"
    assert lines["plain"]["cells"] == {"worst": "plain/pgd", "pgd": "plain/pgd", "best": "plain/pgd"}, (
        "of one, that one"
    )
    assert complete(to_dict(config)) == config, "a saved config is laid out already"


def test_a_source_that_cannot_be_here_is_the_worst_cases_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, key: str) -> None:
        raise AbsentError(key, "needs the package pyautoattack")

    monkeypatch.setattr(autoattack, "published", missing)
    absent = {"attack": {"name": "autoattack", "version": "standard", "eps": 0.2}}
    config = complete(raw({**COLUMNS, "bpda": absent}, {"m": {}}))
    assert list(config.rows) == ["m/pgd"]
    reasons = config.table.lines["m"]["missing"]
    assert reasons["worst"] == reasons["bpda"] == ["attack.version: needs the package pyautoattack"]


@pytest.mark.parametrize(
    ("column", "more", "said"),
    [
        ({"worst": ["pgd", "apgd"]}, {}, "table.columns.w.worst is ['pgd', 'apgd']; accepted: two or more different"),
        ({"worst": ["pgd"]}, {}, "table.columns.w.worst is ['pgd']; accepted: two or more"),
        ({"worst": ["pgd", "pgd"]}, {}, "table.columns.w.worst is ['pgd', 'pgd']"),
        ({"worst": ["pgd", "w"]}, {}, "table.columns.w.worst is ['pgd', 'w']; accepted: two or more different ones of"),
        ({"worst": ["pgd", "bpda"], "of": "pgd"}, {}, "table.columns.w.of is 'pgd'"),
        ({"worst": ["pgd", "bpda"], "side": "standard"}, {}, "table.columns.w.side is 'standard'"),
        ({"worst": ["pgd", "bpda"], "attack": {"eps": 0.1}}, {}, "table.columns.w.attack: changes an evaluation"),
        ({"worst": ["pgd", "bpda"]}, {"bpda": {"attack": {"eps": 0.1}}}, "w.worst: has several threat models"),
        ({"worst": ["pgd", "bpda"]}, {"bpda": {"attack": {"name": "none"}}}, "w.worst: has several threat models"),
        (
            {"worst": ["a", "b"]},
            {c: {"attack": {"name": "stadv"}} for c in "ab"},
            "or none in a norm: a StAdv eps 0.05",
        ),
        ({"worst": ["pgd", "bpda"]}, {"bpda": {"ensemble": {"size": 3}}}, "w.worst: its columns differ in ensemble"),
    ],
)
def test_a_worst_case_that_cannot_be_is_one_line(column: dict, more: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        complete(raw({"pgd": {}, "bpda": {"attack": {"gradient": "bpda"}}, **more, "w": column}, {"m": {}}))
    assert said in str(caught.value) and len(str(caught.value)) <= 300


def test_rows_come_before_the_row_that_needs_their_images() -> None:
    strongest = {"name": "strongest_of", "norm": "Linf", "eps": 0.2, "rows": ["a", "b"]}
    rows = {"a": {}, "worst": {"attack": strongest}, "b": {}}
    with pytest.raises(ConfigError, match=r"rows.worst.attack.rows is 'b'; accepted: rows that come before it: a"):
        complete(raw({}, rows))
    with pytest.raises(ConfigError, match=r"rows.b.attack.rows is 'a'; .*none do"):
        complete(raw({}, {"b": {"attack": strongest}, "a": {}}))


def test_the_strongest_image_of_each_sample_is_judged(done: Path) -> None:
    """As found again with the attacker's own draws, from the images that the other columns have saved."""
    methods = {method.name: method for method in read_run(done / "run").methods}

    def image(column: str, index: int) -> np.ndarray:
        method = methods[f"uniform/{column}"]
        found = method.store.adversarial(next(record for record in method.one_shot if record.index == index))
        assert found is not None
        return found

    config = complete(raw(output=str(done / "run")))
    data = ImageDataModule("digits", subset=4).prepare()
    row = build_rows(config, data)[-1]
    assert row.gradient is not None and row.name == "uniform/worst"
    taken = set()
    for index in data.indices:
        label, sample = torch.tensor([item(data.test_source, index)["label"]]), torch.tensor([index])
        strength = {}
        for name in ("pgd", "bpda"):
            x = torch.from_numpy(image(name, index))[None]
            tried = row.gradient.evaluate(x, label, sample, 20)
            strength[name] = (float(tried.correct), -float(tried.margin))
        best = min(strength, key=strength.__getitem__)
        taken.add(best)
        assert np.array_equal(image("worst", index), image(best, index))
    assert taken == {"pgd", "bpda"}, "else nothing is chosen"
    (line,) = (line for line in methods["uniform/worst"].rows if line.protocol == "one-shot")
    table = json.loads((done / "run" / "table.json").read_text())
    assert table["rows"][1]["cells"]["worst"]["measured"]["value"] == line.robust.value
    notes = " ".join(table["notes"])
    assert "strongest of pgd, bpda; Linf eps 51/255, chosen per image by 20 draws of the attacker's own" in notes


def test_a_run_that_was_cut_goes_on_to_the_same(done: Path, tmp_path: Path) -> None:
    whole = records(done / "run")
    shutil.copytree(done, tmp_path / "cut")
    for column in ("bpda", "worst"):
        file = tmp_path / "cut" / "run" / "uniform" / column / "samples-000.jsonl"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert evaluate(tmp_path / "cut", "--rows", "uniform/bpda") == 0
    assert evaluate(tmp_path / "cut", "--rows", "uniform/worst") == 0
    assert records(tmp_path / "cut" / "run") == whole


def test_it_needs_the_other_columns_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path, "--rows", "uniform/bpda,uniform/worst") == 2
    said = "--rows uniform/worst: needs the images of uniform/pgd, which has not been evaluated yet; select that row"
    assert said in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_another_source_attack_is_noticed(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where nothing but the hashes of settings tells."""
    shutil.copytree(done, tmp_path / "other")
    change = "table.columns.bpda.attack.eot=2"
    for remove, said in ((None, "rows.uniform/bpda.attack.eot was 1, is 2"), ("config.yaml", "row uniform/worst in")):
        if remove is not None:
            (tmp_path / "other" / "run" / remove).unlink()
        assert evaluate(tmp_path / "other", change, "--rows", "uniform/worst") == 2
        assert said in capsys.readouterr().err
    assert evaluate(tmp_path / "other", "--rows", "uniform/worst") == 0


def test_honesty_checks_have_no_more_of_it_than_random_noise(tmp_path: Path) -> None:
    menet = {"name": "menet", "p": 0.7, "share": 0.5}  # without a derivative
    bpda = {"pgd": {"attack": {"gradient": "bpda"}}, "again": {"attack": {"gradient": "bpda", "steps": 2}}}
    columns = {**bpda, "worst": {"worst": ["pgd", "again"]}}
    config = complete(raw(columns, {"m": {"purifier": menet}}, honesty={"images": 2}, output=str(tmp_path)))
    row = build_rows(config, ImageDataModule("digits", subset=2).prepare())[-1]
    assert row.name == "m/worst" and list(row.variants) == ["random_noise"]


def weakest(self: ExactGradient, *args: Any) -> Evaluation:
    found = REAL_EVALUATE(self, *args)
    return Evaluation(1.0 - found.correct, -found.margin)


REAL_EVALUATE = ExactGradient.evaluate


@pytest.mark.parametrize("planted", [False, True], ids=["whole", "the weakest image"])
def test_a_wrong_choice_fails_the_honesty_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: bool
) -> None:
    """Of an attack's images and the clean ones, saved elsewhere."""
    plain = {"purifier": {"name": "none"}, "honesty": {"images": 12}, "output": str(tmp_path / "run")}
    data = ImageDataModule("digits", subset=12).prepare()
    items, sample = [item(data.test_source, index) for index in data.indices], torch.tensor(data.indices)
    x, label = torch.stack([each["image"] for each in items]), torch.tensor([each["label"] for each in items])
    config = raw({}, {}, **plain)
    config |= {"data": {"name": "digits", "subset": 12}, "attack": {**QUICK, "eps": 0.3}, "honesty": {"images": 0}}
    (row,) = build_rows(complete(config), data)
    assert row.gradient is not None
    np.save(tmp_path / "attacked.npy", PGD("Linf", 0.3, 4, 0.15)(row.gradient, x, label, sample).numpy())
    np.save(tmp_path / "clean.npy", x.numpy())
    folders = [str(tmp_path / f"{name}.npy") for name in ("clean", "attacked")]
    if planted:
        monkeypatch.setattr(ExactGradient, "evaluate", weakest)
    attack = {"name": "strongest_of", "norm": "Linf", "eps": 0.3, "folders": folders}
    report = run(complete(config | plain | {"attack": attack}))
    verdicts = {verdict.check: verdict.passed for verdict in report.checks["none"]}
    assert verdicts["random noise"] is not planted and verdicts["inside the ball"] is True, report.checks
    assert {name for name, passed in verdicts.items() if passed is False} == ({"random noise"} if planted else set())


# ---- several processes

STRONGEST = {"name": "strongest_of", "norm": "Linf", "eps": 0.15, "rows": ["pgd", "bpda"], "evaluations": 2}
PLAIN = {
    "pgd": {"purifier": UNIFORM},
    "bpda": {"purifier": UNIFORM, "attack": {"gradient": "bpda"}},
    "worst": {"purifier": UNIFORM, "attack": STRONGEST},
}
OVERRIDES = (
    "data.subset=8", "data.batch_size=2", "attack.eps=0.15", "attack.steps=1", "attack.eot=1", "ensemble.size=1",
    "chunk_size=4", "trainer.accelerator=cpu",
)  # fmt: skip


def slow_calls() -> None:
    """Every denoiser call takes 0.2 s more."""
    slow_evaluate.pause_in_calls(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("slow", [0, 1])
def test_of_two_processes_neither_chooses_before_all_images_are_there(tmp_path: Path, slow: int) -> None:
    assert jobs.evaluate(tmp_path / "alone", PLAIN, *OVERRIDES) == 0
    changes = [slow_calls if number == slow else None for number in range(2)]
    both = [jobs.Rank(n, 2, tmp_path / "run", PLAIN, *OVERRIDES, change=changes[n]) for n in range(2)]
    assert [process.join() for process in both] == [0, 0], [process.printed for process in both]
    assert kills.records_of(tmp_path / "run") == kills.records_of(tmp_path / "alone")
