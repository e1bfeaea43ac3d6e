"""``hetpure verify`` on one honest run, and on copies of it that were changed to look better or to hide something.

Each change is made as carefully as the name of its test says: where results are counted again after it, the table
gives nothing away, and only the networks can tell.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from hetpure.cli import main
from hetpure.config import PROJECT_ROOT
from hetpure.evaluation.content import network_content
from hetpure.models.classifiers import build_classifier
from hetpure.reports.table import write_table_files
from hetpure.runs.files import settings_of
from hetpure.runs.read import read_run
from hetpure.runs.records import Record, shortest
from hetpure.runs.results import write_results
from hetpure.runs.store import RecordStore
from hetpure.runs.verification import Verification, fingerprint, read_verification
from hetpure.verification.verify import verify

CONFIG = {
    "data": {"name": "digits", "subset": 6, "batch_size": 6},
    "classifier": {
        "name": "cifar_resnet8",
        "weights": "checkpoints/digits/classifier/model.safetensors",
        "arguments": {"num_classes": 10, "in_chans": 1},
    },
    "denoiser": {"path": "checkpoints/digits/denoiser"},
    "purifier": {"name": "uniform", "t": 0.1, "grid_size": 10},
    "attack": {"name": "pgd", "eps": 0.15, "step_size": 0.06, "steps": 3, "eot": 1, "recompute": False},
    "ensemble": {"size": 1, "mode": "mean_logits"},
    "protocols": {"resubmissions": 2, "votes": 2},
    "chunk_size": 12,
    "threads": 1,
    "pictures": 0,
    "wandb": {"mode": "disabled"},
    "trainer": {"accelerator": "cpu"},
    "rows": {"undefended": {"purifier": {"name": "none"}}, "uniform": {}},
}
EVERY = 6
"""Attacked again: all samples, so that a test does not depend on which ones are drawn."""


def evaluate(folder: Path, *overrides: str) -> Path:
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(CONFIG))
    assert main(["evaluate", "--config", str(config), f"output={folder}", *overrides]) == 0
    return folder


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return evaluate(tmp_path_factory.mktemp("runs") / "honest")


@pytest.fixture
def run(honest: Path, tmp_path: Path) -> Path:
    """A copy of the honest run's row ``uniform``."""
    copy = Path(shutil.copytree(honest, tmp_path / "run", ignore=shutil.ignore_patterns("undefended", "report.html")))
    for file in (copy / "config.yaml", copy / "content.yaml"):
        content = yaml.safe_load(file.read_text())
        del content["rows"]["undefended"]
        file.write_text(yaml.safe_dump(content, sort_keys=False))
    recount(copy)
    return copy


# ---- how a folder is changed


def records_of(run: Path, row: str = "uniform") -> list[Record]:
    return RecordStore(run / row, ["one-shot", "best of 2", "majority of 2"]).read()


def rewrite(run: Path, change: Callable[[Record], Record | None], row: str = "uniform") -> None:
    """Every record of a row, changed or left out; the table is counted again."""
    changed = [new for record in records_of(run, row) if (new := change(record)) is not None]
    (run / row / "samples-000.jsonl").write_text("".join(json.dumps(asdict(record)) + "\n" for record in changed))
    recount(run)


def recount(run: Path) -> None:
    report = read_run(run).report
    write_results(report, run)
    write_table_files(report, run)


def new_images(run: Path, change: Callable[[int, np.ndarray], np.ndarray], row: str = "uniform") -> None:
    """Every adversarial image of a row, changed."""
    store = RecordStore(run / row)
    images = {r.index: (r.image, store.adversarial(r)) for r in store.read()}
    for name in {name for name, _ in images.values()}:
        batch = {i: change(i, image) for i, (of, image) in images.items() if of == name and image is not None}
        np.savez(run / row / str(name), **{str(i): image for i, image in batch.items()})


def edit_config(run: Path, **sections: object) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    row = config["rows"].get("uniform", {})
    for key, value in sections.items():
        place = row if key in row else config
        place[key] = {**place[key], **value} if isinstance(value, dict) else value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def failed(verification: Verification) -> set[str]:
    """The checks that failed, with the row's name where it is not ``uniform``."""
    found = {verdict.check for verdict in verification.run if verdict.passed is False}
    for row, verdicts in verification.rows.items():
        names = {verdict.check for verdict in verdicts if verdict.passed is False}
        found |= names if row == "uniform" else {f"{row}: {name}" for name in names}
    return found


def broken_sample(run: Path) -> int:
    return next(r.index for r in records_of(run) if r.right("clean") and not r.right("adversarial"))


# ---- the honest run


def test_an_honest_run_passes_with_two_rows_and_three_protocols(
    honest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(honest, tmp_path / "run"))
    assert main(["verify", str(run), "--samples", str(EVERY)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines[:-1] if ": ok. " not in line] == []
    assert lines[-1] == f"verified: {len(lines) - 1} checks ok, 0 FAILED, 0 not checked; {run}/verification.json"
    for row, random in (("undefended", False), ("uniform", True)):
        checks = [line.split(": ")[1] for line in lines if line.startswith(f"{row}: ")]
        expected = ["records", "samples", "labels", "inside the ball", "judged again", "same bits", "attacked again"]
        assert checks == [*expected[:-1], *["fresh draws"] * random, "attacked again"]
    kept = read_verification(run)
    assert kept.passed and kept.samples == EVERY and kept.fingerprint == fingerprint(run)
    assert list(kept.rows) == ["undefended", "uniform"]


def test_a_run_whose_memory_ran_out(run: Path, tmp_path: Path) -> None:
    """Its records were made in smaller chunks than the config's, and give the same bits in those."""
    small = evaluate(tmp_path / "small", "chunk_size=6", "rows=null", "data.subset=3")
    edit_config(small, chunk_size=12)
    found = verify(small, samples=1)
    assert [v for v in found.verdicts if not v.passed and v.check != "report"] == []


# ---- tampering


def check(run: Path, expected: set[str], samples: int = EVERY) -> Verification:
    verification = verify(run, samples=samples)
    assert failed(verification) == expected
    assert verification.passed is False
    return verification


def test_a_flipped_prediction(run: Path) -> None:
    index = broken_sample(run)
    rewrite(run, lambda r: replace(r, adversarial=[r.label] * len(r.adversarial)) if r.index == index else r)
    check(run, {"records", "samples"})


def test_a_flipped_prediction_with_its_scores(run: Path) -> None:
    index = broken_sample(run)

    def flip(r: Record) -> Record:
        if r.index != index:
            return r
        return replace(r, adversarial=list(r.clean), adversarial_scores=list(r.clean_scores))

    rewrite(run, flip)
    check(run, {"judged again", "same bits", "attacked again"})


def test_a_swapped_label(run: Path) -> None:
    index = broken_sample(run)
    wrong = next(r for r in records_of(run) if r.index == index).adversarial[0]
    rewrite(run, lambda r: replace(r, label=wrong) if r.index == index else r)
    assert "labels" in failed(verify(run, samples=0))


def test_a_dropped_failing_sample(run: Path) -> None:
    index = broken_sample(run)
    rewrite(run, lambda r: None if r.index == index else r)
    found = check(run, {"samples"})
    assert f"1 of 6 missing: {index}" in next(v.details for v in found.rows["uniform"] if v.check == "samples")


def test_a_failing_sample_recorded_as_failed(run: Path) -> None:
    index = broken_sample(run)
    nothing = {side: [] for side in ("clean", "clean_scores", "adversarial", "adversarial_scores")}
    rewrite(run, lambda r: replace(r, **nothing, image=None, failure="not finite") if r.index == index else r)
    assert "attacked again" in failed(verify(run, samples=1)), "failed samples are attacked beside the others"


@pytest.mark.parametrize("amount", [0.2, 0.16])
def test_images_beyond_eps(run: Path, amount: float) -> None:
    clean = {i: image for i, image in clean_images().items()}
    new_images(run, lambda i, image: np.where(clean[i] > 0.5, clean[i] - amount, clean[i] + amount).astype(np.float32))
    assert "inside the ball" in failed(verify(run, samples=0))


def test_images_outside_0_1(run: Path) -> None:
    new_images(run, lambda i, image: np.where(image == 0.0, np.float32(-0.001), image))
    assert "inside the ball" in failed(verify(run, samples=0))


def test_rounded_images(run: Path) -> None:
    """To 8 bits, which changes no decision here and stays in the ball."""
    new_images(run, lambda i, image: (image * 255).round().astype(np.float32) / np.float32(255))
    assert {"same bits", "attacked again"} <= failed(verify(run, samples=EVERY))


def test_rounded_images_behind_nudged_scores(run: Path) -> None:
    """Clean scores that no machine gives take the bits out of the comparison, but a pass as well."""

    def nudge(r: Record) -> Record:
        up = [shortest(np.nextafter(np.float32(scores), np.float32(9))) for scores in r.clean_scores]
        return replace(r, clean_scores=up)

    new_images(run, lambda i, image: image.astype(np.float16).astype(np.float32))
    rewrite(run, nudge)
    verification = verify(run, samples=EVERY)
    states = {verdict.check: verdict.passed for verdict in verification.rows["uniform"]}
    assert states["same bits"] is None and states["attacked again"] is not True and verification.passed is not True


def test_other_weights(run: Path) -> None:
    check(with_other_weights(run), {"content"})


def test_other_weights_with_their_own_hashes(run: Path) -> None:
    """Weights that were trained on, say, and a folder that claims them."""
    with_other_weights(run)
    classifier = yaml.safe_load((run / "config.yaml").read_text())["classifier"]
    content = yaml.safe_load((run / "content.yaml").read_text())
    content["rows"]["uniform"]["classifier"] = network_content(build_classifier(**classifier))
    (run / "content.yaml").write_text(yaml.safe_dump(content))
    check(run, {"judged again"}, samples=0)


def test_another_seed_in_the_config(run: Path) -> None:
    edit_config(run, seed=1)
    recount(run)
    assert {"records", "judged again"} <= failed(verify(run, samples=0))


def test_another_seed_everywhere(run: Path) -> None:
    edit_config(run, seed=1)
    rewrite(run, lambda r: replace(r, seed=1))
    assert {"judged again"} <= failed(verify(run, samples=0))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"attack": {"eps": 0.3}}, {"attacked again", "report"}),
        ({"purifier": {"t": 0.3}}, {"judged again", "report"}),  # with its number of network calls
        ({"purifier": {"t": 0.05}}, {"content"}),  # which the purifier refuses at this grid
        ({"data": {"subset": 5}}, {"samples", "report", "content"}),
    ],
)
def test_an_edited_config(run: Path, change: dict[str, dict[str, object]], expected: set[str]) -> None:
    edit_config(run, **change)
    check(run, expected, samples=1 if "attack" in change else 0)


def test_an_edited_table(run: Path) -> None:
    content = json.loads((run / "results.json").read_text())
    row = next(row for row in content["rows"] if row["method"] == "uniform" and row["protocol"] == "one-shot")
    row["robust"] = {"value": 1.0, "low": 0.6, "high": 1.0, "count": 6}
    (run / "results.json").write_text(json.dumps(content))
    check(run, {"table"}, samples=0)


def test_an_edited_table_in_words(run: Path) -> None:
    (run / "results.md").write_text((run / "results.md").read_text().replace("PGD", "AutoAttack"))
    check(run, {"table files"}, samples=0)


def test_an_edited_description_of_the_attack(run: Path) -> None:
    text = (run / "results.json").read_text()
    (run / "results.json").write_text(text.replace("3 steps of 0.06", "300 steps of 0.06"))
    write_table_files(read_run(run).report, run)
    check(run, {"report"}, samples=0)


def test_duplicated_lines(run: Path) -> None:
    file = run / "uniform" / "samples-000.jsonl"
    first = file.read_text().splitlines(keepends=True)[:3]
    (run / "uniform" / "samples-001.jsonl").write_text("".join(first))
    check(run, {"records"}, samples=0)


def test_a_weaker_attack_than_claimed(run: Path, tmp_path: Path) -> None:
    """Honest records of fewer steps, under the config and the table of more."""
    weak = evaluate(tmp_path / "weak", "attack.steps=1")
    shutil.rmtree(run / "uniform")
    shutil.copytree(weak / "uniform", run / "uniform")
    rewrite(run, lambda r: replace(r, settings=settings_of(run)["uniform"][0]))
    found = check(run, {"attacked again"}, samples=1)
    assert "number of gradients (1, here 3)" in next(
        v.details for v in found.rows["uniform"] if v.check == "attacked again"
    )


def test_records_of_an_earlier_version_say_no_settings(run: Path) -> None:
    rewrite(run, lambda r: replace(r, settings=""))
    assert not failed(verify(run, samples=0))


def test_invented_checkpoints(run: Path) -> None:
    """A flat curve that would make the attack look converged."""
    rewrite(run, lambda r: replace(r, checkpoints={"1": list(r.adversarial)}))
    check(run, {"attacked again"}, samples=1)


def test_an_edited_loss_curve(run: Path) -> None:
    """Which the honesty checks look at."""
    rewrite(run, lambda r: replace(r, attack_loss=[0.0, 1.0, 2.0]))
    check(run, {"attacked again"}, samples=1)


def test_a_truncated_file_of_records(run: Path) -> None:
    file = run / "uniform" / "samples-000.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    assert {"records", "samples"} <= failed(verify(run, samples=0))


def test_a_truncated_file_of_images(run: Path) -> None:
    file = next((run / "uniform" / "adversarial").glob("*.npz"))
    file.write_bytes(file.read_bytes()[:-40])
    check(run, {"inside the ball"}, samples=1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[]", "does not fit the schema"),
        ('{"index": 1}', "does not fit the schema"),
        ('{"index": NaN}', "NaN is no number"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_lines_that_are_no_records(run: Path, line: str, says: str) -> None:
    with (run / "uniform" / "samples-000.jsonl").open("a") as file:
        file.write(line + "\n")
    verification = verify(run, samples=0)
    assert failed(verification) == {"records"} and says in verification.rows["uniform"][0].details
    table = next(verdict for verdict in verification.run if verdict.check == "table")
    assert table.passed is None and "cannot be read" in table.details


def test_results_that_do_not_fit_their_schema(run: Path) -> None:
    content = json.loads((run / "results.json").read_text())
    content["rows"][0]["images"] = "all"
    (run / "results.json").write_text(json.dumps(content))
    check(run, {"table"}, samples=0)


def with_other_weights(run: Path) -> Path:
    """A folder whose config leads to a classifier that differs from the evaluated one in one value of each tensor."""
    weights = load_file(PROJECT_ROOT / "checkpoints/digits/classifier/model.safetensors")
    changed = {name: value.clone() for name, value in weights.items()}
    for value in changed.values():
        if value.is_floating_point():
            value.view(-1)[0] += 0.5
    save_file(changed, run.parent / "other.safetensors")
    edit_config(run, classifier={"weights": str(run.parent / "other.safetensors")})
    return run


def clean_images() -> dict[int, np.ndarray]:
    from hetpure.data import ImageDataModule
    from hetpure.data.items import item

    data = ImageDataModule("digits", subset=6).prepare()
    return {index: item(data.test_source, index)["image"].numpy() for index in data.indices}
