"""An attack of another library and saved images as the attack of an evaluation: recorded, resumed, planned, judged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.evaluation.jobs import evaluate

ROWS: dict[str, Any] = {"uniform": {"purifier": {"name": "uniform", "t": 0.1, "grid_size": 20}}}
SMALL = ("attack.eot=2", "ensemble.size=2", "chunk_size=4")
EOTPGD = ("attack.name=torchattacks:EOTPGD", "attack.norm=Linf", "attack.eps=0.15", *SMALL,
          "attack.arguments={steps: 2, alpha: 0.1}")  # fmt: skip


def outcomes(folder: Path) -> dict[int, dict[str, Any]]:
    lines = [line for file in sorted(folder.glob("samples-*.jsonl")) for line in file.read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    return {r["index"]: {k: v for k, v in r.items() if k not in ("seconds", "image")} for r in records}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torchattacks", reason="the extra is not installed: pip install 'hetpure[torchattacks]'")
    folder = tmp_path_factory.mktemp("foreign") / "run"
    assert evaluate(folder, ROWS, *EOTPGD, "data.subset=3", "honesty.images=3") == 0
    return folder


def test_it_is_recorded_checked_and_the_librarys_version_belongs_to_the_run(foreign: Path, capsys) -> None:
    records = outcomes(foreign / "uniform")
    assert len(records) == 3 and all(len(r["attack_loss"]) == 2 and r["adversarial"] for r in records.values())
    variants = {path.name for path in (foreign / "uniform" / "honesty").iterdir()}
    assert variants == {"more_steps", "more_eot", "larger_eps", "huge_eps", "random_noise", "transfer"}
    results = json.loads((foreign / "results.json").read_text())
    assert "torchattacks:EOTPGD Linf eps 0.15, steps 2, alpha 0.1" in json.dumps(results)
    content = yaml.safe_load((foreign / "content.yaml").read_text())
    assert content["rows"]["uniform"]["attack"].startswith("torchattacks ")
    content["rows"]["uniform"]["attack"] = "torchattacks 0.1"
    changed = yaml.safe_dump(content)
    before = (foreign / "content.yaml").read_text()
    (foreign / "content.yaml").write_text(changed)
    assert evaluate(foreign, ROWS, *EOTPGD, "data.subset=3", "honesty.images=3") == 2
    assert "torchattacks 0.1" in capsys.readouterr().err
    (foreign / "content.yaml").write_text(before)


def test_batches_and_a_resumed_run_give_the_same_bits(foreign: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert evaluate(output, ROWS, *EOTPGD, "data.subset=3", "data.batch_size=2") == 0
    assert outcomes(output / "uniform") == outcomes(foreign / "uniform")
    (file,) = (output / "uniform").glob("samples-*.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:1]))
    assert evaluate(output, ROWS, *EOTPGD, "data.subset=3", "data.batch_size=1") == 0
    assert outcomes(output / "uniform") == outcomes(foreign / "uniform")


def test_saved_images_of_a_run_are_judged_like_the_run(foreign: Path, tmp_path: Path, capsys) -> None:
    saved = ("attack.name=saved", f"attack.folder={foreign}", "attack.norm=Linf", "data.subset=3", *SMALL)
    output = tmp_path / "run"
    assert evaluate(output, ROWS, *saved, "attack.eps=0.15", "honesty.images=3") == 0
    original, again = outcomes(foreign / "uniform"), outcomes(output / "uniform")
    assert {k: r["adversarial_scores"] for k, r in again.items()} == {
        k: r["adversarial_scores"] for k, r in original.items()
    }
    assert {path.name for path in (output / "uniform" / "honesty").iterdir()} == {"random_noise"}
    capsys.readouterr()
    assert evaluate(tmp_path / "other", ROWS, *saved, "attack.eps=0.1") == 2
    assert "from the clean image (Linf), and eps is 0.1" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()

    # Moved files may go on with a run, other images may not.
    (file,) = (foreign / "uniform" / "adversarial").glob("*.npz")
    arrays = dict(np.load(file))
    np.savez(tmp_path / "moved.npz", **arrays)
    moved = (*saved[:1], f"attack.folder={tmp_path / 'moved.npz'}", *saved[2:], "attack.eps=0.15", "honesty.images=3")
    assert evaluate(output, ROWS, *moved) == 0
    first = next(iter(arrays))
    arrays[first] = arrays[first].copy()
    arrays[first][0, 0, 0] += 1e-3 if arrays[first][0, 0, 0] < 0.5 else -1e-3
    np.savez(tmp_path / "moved.npz", **arrays)
    capsys.readouterr()
    code = evaluate(output, ROWS, *moved)
    error = capsys.readouterr().err
    assert code == 2 and ("rows.uniform.attack was" in error or "from the clean image" in error)


def test_saved_images_need_no_derivative(foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is differentiated, so a purifier without derivative needs no other gradient mode."""
    monkeypatch.chdir(tmp_path)
    source = (
        "from hetpure.purification.none import NoPurifier\n\n\nclass Rounds(NoPurifier):\n    differentiable = False\n"
    )
    Path("rounds.py").write_text(source)
    saved = ("attack.name=saved", f"attack.folder={foreign}", "attack.norm=Linf", "attack.eps=0.15", "data.subset=1")
    rows = {"rounds": {"purifier": {"name": "rounds.py:Rounds"}}}
    assert evaluate(tmp_path / "run", rows, *saved, *SMALL) == 0
    assert evaluate(tmp_path / "pgd", rows, "attack.name=pgd", "data.subset=1", *SMALL) == 2
