"""``evaluate.py`` end to end, on the embedded digits with random networks that come from outside the project."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.pgd import PGD
from hetpure.cli import main
from hetpure.config import PROJECT_ROOT, read_config
from hetpure.data import ImageDataModule
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.evaluation.build import build_rows
from hetpure.evaluation.config import complete
from hetpure.models.classifiers import Classifier, build_network
from hetpure.models.denoisers import DiffusersDenoiser
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.runs.store import RecordStore
from tests.models.test_classifiers import Touch
from tests.toys import tiny_unet

THEIR_CODE = """
import os
import time
from pathlib import Path

import torch
from torch import nn

class TheirNet(nn.Module):
    def __init__(self, width=6, classes=10):
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(width, 8, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        file, deadline = os.environ.get("THEIR_FIRST_PROCESS_WAITS_FOR"), time.monotonic() + 60
        while file and os.environ.get("LOCAL_RANK") == "0" and not Path(file).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.head(self.block2(self.block1(x)).mean((2, 3)))
"""
"""In the first of several processes its calls may wait for a file."""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from elsewhere: code, a state dict in safetensors, diffusers folders, a config."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "their_network.py").write_text(THEIR_CODE)
    torch.manual_seed(8)
    network = build_network(f"{folder}/their_network.py:TheirNet")
    state = {k: v * 12.0 if k == "head.weight" else v for k, v in network.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    tiny_unet().save_pretrained(folder / "denoiser")
    tiny_unet(size=16).save_pretrained(folder / "denoiser16")
    tiny_unet(channels=3).save_pretrained(folder / "denoiser_rgb")
    config = {
        "data": {"name": "digits", "subset": 6, "batch_size": 4},
        "classifier": {
            "name": f"{folder}/their_network.py:TheirNet",
            "weights": f"{folder}/weights.safetensors",
            "mean": [0.3],
            "std": [0.4],
        },
        "denoiser": {"path": f"{folder}/denoiser"},
        "purifier": {"name": "heterogeneous", "grid_size": 20, "blocks": ["block1", "block2"], "tau": 0.5},
        "attack": {"name": "pgd", "norm": "Linf", "eps": "1/10", "steps": 3, "step_size": 0.04, "eot": 2},
        "ensemble": {"size": 3, "mode": "mean_logits"},
        "chunk_size": 8,
        "threads": 1,
        "pictures": 0,
        "trainer": {"accelerator": "cpu"},
        "wandb": {"mode": "disabled"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(config))
    return folder


def evaluate(theirs: Path, output: Path, *overrides: str) -> int:
    return main(["evaluate", "--config", str(theirs / "job.yaml"), f"output={output}", *overrides])


def command(theirs: Path, output: Path, *overrides: str) -> list[str]:
    script = str(PROJECT_ROOT / "evaluate.py")
    return [sys.executable, script, "--config", str(theirs / "job.yaml"), f"output={output}", *overrides]


def outcome(output: Path, row: str = "heterogeneous") -> dict[int, tuple]:
    """Everything of every sample but the time it took, and the bits of its adversarial image."""
    store = RecordStore(output / row)
    found = {}
    for r in store.read():
        image = store.adversarial(r)
        bits = None if image is None else image.tobytes()
        found[r.index] = (r.label, r.clean_scores, r.adversarial_scores, r.attack_loss, bits, r.gradient_size)
    return found


def image_of(output: Path, index: int, row: str = "heterogeneous") -> torch.Tensor:
    store = RecordStore(output / row)
    image = store.adversarial(next(r for r in store.read() if r.index == index))
    assert image is not None
    return torch.from_numpy(image)


def lines(output: Path, row: str = "heterogeneous") -> list[int]:
    """The index of every line, as often as it stands there."""
    return [
        json.loads(line)["index"]
        for file in sorted((output / row).glob("samples-*.jsonl"))
        for line in file.read_text().splitlines()
    ]


def indices(subset: int) -> list[int]:
    """The paper's subset, from numpy itself."""
    return sorted(np.random.RandomState(0).choice(500, subset, replace=False).tolist())


@pytest.fixture(scope="module")
def undisturbed(theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert evaluate(theirs, output) == 0
    return output


# ---- what a run leaves


def test_a_third_partys_networks_from_a_config_alone(theirs: Path, undisturbed: Path) -> None:
    """The same by hand: their class, their weights, their denoiser, one attack and one defense on the same subset."""
    scope = runpy.run_path(str(theirs / "their_network.py"))
    network = scope["TheirNet"]()
    network.load_state_dict(load_file(theirs / "weights.safetensors"))
    classifier = Classifier(network, [0.3], [0.4]).eval().requires_grad_(False)
    purifier = HeterogeneousPurifier(
        DiffusersDenoiser(tiny_unet()), classifier, grid_size=20, blocks=["block1", "block2"], tau=0.5
    )
    defense = PurifiedClassifier(classifier, purifier, 10, ensemble_size=3, ensemble_mode="mean_logits", chunk_size=8)
    data = ImageDataModule("digits", subset=6).prepare()
    items = [data.test_dataloader().dataset[i] for i in range(6)]
    x, label, index = (torch.stack([torch.as_tensor(i[key]) for i in items]) for key in ("image", "label", "index"))
    adversarial = PGD("Linf", 0.1, 3, 0.04)(ExactGradient(defense, 2, 0), x, label, index)
    clean, robust = defense(x, index), defense(adversarial, index)

    found = outcome(undisturbed)
    assert sorted(found) == sorted(index.tolist()) == indices(6)
    for i, k in enumerate(index.tolist()):
        torch.testing.assert_close(image_of(undisturbed, k), adversarial[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.tensor(found[k][1]), clean[i : i + 1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.tensor(found[k][2]), robust[i : i + 1], rtol=1e-4, atol=1e-4)
        assert found[k][0] == label[i]
        assert len(found[k][3]) == 3
    results = json.loads((undisturbed / "results.json").read_text())["rows"]
    assert [(r["method"], r["images"], r["total"]) for r in results] == [("heterogeneous", 6, 6)]
    assert results[0]["standard"]["value"] == pytest.approx((clean.argmax(1) == label).double().mean().item())
    assert results[0]["robust"]["value"] == pytest.approx((robust.argmax(1) == label).double().mean().item())


def test_adversarial_images_are_in_the_ball_and_the_box(undisturbed: Path) -> None:
    source = ImageDataModule("digits").prepare().test_source
    for k in outcome(undisturbed):
        image = image_of(undisturbed, k)
        clean = source.image(k).float() / source.scale
        assert 0.03 < (image - clean).abs().max() <= 0.1 + 1e-6
        assert image.min() >= 0 and image.max() <= 1


def test_rows_pictures_tables_and_config(theirs: Path, tmp_path: Path, capsys) -> None:
    rows = [
        "rows.undefended={purifier: {name: none}}",
        "rows.clean={attack: {name: none}}",
        "rows.uniform={purifier: {name: uniform, t: 0.1, grid_size: 20}}",
    ]
    output = tmp_path / "run"
    assert evaluate(theirs, output, *rows, "data.subset=3", "pictures=2", "attack.steps=1") == 0
    printed = capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())["rows"]
    assert [r["method"] for r in results] == ["undefended", "clean", "uniform"]
    for row in results:
        folder = output / row["method"]
        assert (folder / "pictures.png").read_bytes().startswith(b"\x89PNG")
        assert sorted(outcome(output, row["method"])) == indices(3)
        assert row["method"] in printed
    assert (results[1]["robust"]["count"], results[2]["robust"]["count"]) == (0, 3)
    for name in ("results.csv", "results.md"):
        assert "uniform" in (output / name).read_text()
    assert yaml.safe_load((output / "config.yaml").read_text())["attack"]["eps"] == 0.1
    assert not list(output.rglob("*.part"))


def test_the_attack_process_can_be_a_surrogate(theirs: Path) -> None:
    raw = read_config(
        str(theirs / "job.yaml"), ["attack.process={grid_size: 10, t_small: 0.05}", "attack.recompute=false"]
    )
    config = complete({**raw, "output": "unused"})
    (row,) = build_rows(config, ImageDataModule("digits", subset=2).prepare())
    assert row.gradient is not None
    assert row.model.purifier.timesteps == [200, 150, 100, 50, 0]
    assert row.gradient.process.purifier.timesteps == [200, 100, 0]
    assert not Path("unused").exists()


# ---- the same draws, the same bits


@pytest.mark.parametrize(
    "overrides", [("data.batch_size=1",), ("data.batch_size=16", "data.workers=1")], ids=["1", "16"]
)
def test_loader_batch_sizes_agree_bit_for_bit(
    theirs: Path, undisturbed: Path, tmp_path: Path, overrides: tuple
) -> None:
    """Against batches of 4: adversarial images, scores and losses, with chunk size and threads fixed."""
    assert evaluate(theirs, tmp_path / "run", *overrides) == 0
    assert outcome(tmp_path / "run") == outcome(undisturbed)


def test_an_untrained_network_is_noted(theirs: Path, tmp_path: Path) -> None:
    """It is the same in each process that builds it, or the second command would be refused: it has other weights."""
    options = ("classifier.weights=random", "data.subset=2", "attack={name: none}", "purifier={name: none}")
    assert evaluate(theirs, tmp_path, *options) == evaluate(theirs, tmp_path, *options) == 0
    note = "none: the classifier is untrained (classifier.weights: random)"
    assert json.loads((tmp_path / "results.json").read_text())["notes"] == [note]
    assert note in (tmp_path / "results.md").read_text()


def test_another_seed_is_another_run(theirs: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert evaluate(theirs, tmp_path / "run", "seed=1", "data.subset=2") == 0
    found, other = outcome(tmp_path / "run"), outcome(undisturbed)
    assert set(found) < set(other), "numpy's two of 500 are the first of its six"
    for k in found:
        assert found[k][0] == other[k][0]
        assert all(a != b for a, b in zip(found[k][1:], other[k][1:], strict=True))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_agree_with_one_bit_for_bit(theirs: Path, tmp_path: Path) -> None:
    """Started by Lightning; every sample once, and the second process, which comes later, does some of them."""
    settings = ["data.subset=12", "data.batch_size=1"]
    ddp = ["trainer.devices=2", "trainer.strategy=ddp"]
    second = tmp_path / "two" / "heterogeneous" / "samples-001.jsonl"
    environment = {**os.environ, "THEIR_FIRST_PROCESS_WAITS_FOR": str(second)}
    line = command(theirs, tmp_path / "two", *settings, *ddp)
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert evaluate(theirs, tmp_path / "one", *settings) == 0
    assert sorted(lines(tmp_path / "two")) == sorted(lines(tmp_path / "one")) == indices(12)
    assert len(list((tmp_path / "two").glob("*/samples-*.jsonl"))) == 2
    assert outcome(tmp_path / "two") == outcome(tmp_path / "one")
    tables = [json.loads((tmp_path / n / "results.json").read_text())["rows"] for n in ("one", "two")]
    for a, b in zip(*tables, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


# ---- resuming


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_a_finished_run_is_not_computed_again(theirs: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = copy(undisturbed, tmp_path / "run")
    before = {f: f.read_bytes() for f in output.rglob("*") if f.suffix in (".jsonl", ".npz")}
    assert evaluate(theirs, output, "data.batch_size=2", "trainer.max_steps=3") == 0  # keys that change no result
    assert {f: f.read_bytes() for f in before} == before


def test_a_run_cut_off_in_a_line_goes_on_with_what_is_missing(theirs: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = copy(undisturbed, tmp_path / "run")
    (file,) = (output / "heterogeneous").glob("samples-*.jsonl")
    text = file.read_text().splitlines(keepends=True)
    file.write_text("".join(text[:3]) + text[3][: len(text[3]) // 2])
    (output / "results.json").unlink()
    assert evaluate(theirs, output) == 0
    assert outcome(output) == outcome(undisturbed)
    assert json.loads((output / "results.json").read_text())["rows"][0]["images"] == 6


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("attack.eps=0.2", "attack.eps"),
        ("seed=1", "seed"),
        ("purifier.tau=0.6", "purifier.tau"),
        ("data.subset=7", "data.subset"),
        ("chunk_size=4", "chunk_size"),
        ("protocols.resubmissions=3", "protocols.resubmissions"),
    ],
)
def test_a_folder_of_another_config_is_refused(theirs: Path, undisturbed: Path, capfd, override: str, key: str) -> None:
    before = (undisturbed / "config.yaml").read_text()
    assert_refused(theirs, undisturbed, capfd, [override], key, fresh=False)
    assert (undisturbed / "config.yaml").read_text() == before


def interrupt(process: subprocess.Popen, file: Path, count: int) -> None:
    """Ctrl-C as soon as the file holds so many lines."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if file.is_file() and file.read_bytes().count(b"\n") >= count:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ctrl_c_leaves_finished_batches_and_the_same_command_goes_on(theirs: Path, tmp_path: Path) -> None:
    settings = ["data.subset=16", "data.batch_size=2", "attack.steps=8"]
    output = tmp_path / "run"
    process = subprocess.Popen(
        command(theirs, output, *settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # A suite in a shell's background runs with Ctrl-C ignored, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    interrupt(process, output / "heterogeneous" / "samples-000.jsonl", 4)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and "interrupted" in errors
    kept = outcome(output)
    assert 4 <= len(kept) < 16 and all(found[4] is not None for found in kept.values())
    (row,) = json.loads((output / "results.json").read_text())["rows"]
    assert (row["images"], row["total"]) == (len(kept), 16)
    assert f"{len(kept)} of 16" in printed

    assert evaluate(theirs, output, *settings) == 0
    assert evaluate(theirs, tmp_path / "undisturbed", *settings) == 0
    assert outcome(output) == outcome(tmp_path / "undisturbed")
    assert sorted(lines(output)) == indices(16)
    assert {k: outcome(output)[k] for k in kept} == kept


def test_files_that_moved_are_the_same_and_others_in_their_place_are_not(
    theirs: Path, undisturbed: Path, tmp_path: Path, capfd
) -> None:
    """The content counts, not the path."""
    output = copy(undisturbed, tmp_path / "run")
    moved = copy(theirs / "denoiser", tmp_path / "moved")
    shutil.copy(theirs / "weights.safetensors", tmp_path / "w.safetensors")
    places = [f"denoiser.path={moved}", f"classifier.weights={tmp_path}/w.safetensors", f"data.root={tmp_path}"]
    assert evaluate(theirs, output, *places) == 0
    state = load_file(tmp_path / "w.safetensors")
    state["head.bias"] += 1e-3
    save_file(state, tmp_path / "w.safetensors")
    assert_refused(theirs, output, capfd, places, "rows.heterogeneous.classifier was", fresh=False)


def test_all_protocols_from_one_run(theirs: Path, undisturbed: Path, tmp_path: Path) -> None:
    """One-shot predictions are the same with and without the others; best-of-N is no better than one-shot."""
    output = tmp_path / "run"
    assert evaluate(theirs, output, "protocols.resubmissions=4", "protocols.votes=14") == 0
    assert outcome(output) == outcome(undisturbed)
    names = ("one-shot", "best of 4", "majority of 14")
    records = RecordStore(output / "heterogeneous", names).read()
    assert [(r.index, r.protocol) for r in records] == [(k, p) for k in indices(6) for p in names]
    assert [len(r.adversarial) for r in records[:3]] == [1, 4, 1] and [r.draws for r in records[:3]] == [3, 12, 14]
    for one, best, _ in zip(records[::3], records[1::3], records[2::3], strict=True):
        assert best.clean_scores[0] == one.clean_scores[0] and best.adversarial_scores[0] == one.adversarial_scores[0]
        assert len({tuple(scores) for scores in best.adversarial_scores}) == 4, "evaluations share no draw"
    rows = json.loads((output / "results.json").read_text())["rows"]
    assert [row["protocol"] for row in rows] == list(names)
    assert rows[1]["robust"]["value"] <= rows[0]["robust"]["value"]
    assert rows[2]["robust"]["count"] == 6


# ---- bad input


def assert_refused(
    theirs: Path,
    output: Path,
    capfd,
    overrides: list[str],
    expected: str,
    config: str | None = None,
    fresh: bool = True,
) -> None:
    """Exit code 2, one line on stderr that starts with ``error:`` and names the thing, nothing left behind."""
    capfd.readouterr()
    code = main(["evaluate", "--config", config or str(theirs / "job.yaml"), f"output={output}", *overrides])
    errors = capfd.readouterr().err
    assert code == 2, errors
    assert errors.startswith("error: ") and errors.count("\n") == 1 and errors.endswith("\n"), errors
    assert expected in errors
    assert len(errors) < 1000
    if fresh:
        assert not output.exists()


BAD = [
    # wrong keys
    ("classifer.name=x", "classifer: unknown key"),
    ("attack.epsilon=0.1", "attack.epsilon: unknown key"),
    ("purifier.t_smal=0.1", "did you mean t_small"),
    ("purifier.denoiser=x", "purifier.denoiser: unknown key"),
    ("classifier.weight=x", "did you mean weights"),
    ("denoiser.name=x", "denoiser.name: unknown key"),
    ("data.batchsize=3", "did you mean batch_size"),
    ("ensemble.s=3", "ensemble.s: unknown key"),
    ("trainer.device=2", "trainer.device: unknown key"),
    ("attack.process.t_smal=0.05", "attack.process.t_smal: unknown key"),
    ("rows={a: {purifier: {t_smal: 0.05}}}", "rows.a.purifier.t_smal"),
    ("rows={a: {seed: 3}}", "rows.a.seed"),
    # wrong types
    ("attack.steps=many", "attack.steps"),
    ("attack.steps=2.5", "attack.steps"),
    ("attack.eps=large", "attack.eps"),
    ("attack.eps=8/0", "attack.eps"),
    ("attack=pgd", "attack"),
    ("purifier=3", "purifier"),
    ("purifier.grid_size=[1, 2]", "purifier.grid_size"),
    ("purifier.root=perhaps", "purifier.root"),
    ("purifier.blocks=block1", "purifier.blocks"),
    ("purifier.blocks={a: block1}", "purifier.blocks"),
    ("purifier.preset=[paper]", "purifier.preset"),
    ("purifier.name=[uniform]", "purifier.name"),
    ("attack.name={a: 1}", "attack.name"),
    ("data.subset=1.5", "data.subset"),
    ("data=digits", "data"),
    ("seed=first", "seed"),
    ("classifier.mean=0.5", "classifier.mean"),
    ("classifier.mean=[dark]", "classifier.mean"),
    ("classifier.arguments=[1]", "classifier.arguments"),
    ("rows={a: 3}", "rows.a"),
    ("rows=[a, b]", "rows"),
    ("trainer=2", "trainer"),
    # missing files
    ("classifier.weights=/no/such.safetensors", "/no/such.safetensors: no such file"),
    ("classifier.name=/no/such.py:Net", "/no/such.py"),
    ("classifier.name=no_such_model", "no_such_model"),
    ("denoiser.path=/no/such/folder", "/no/such/folder"),
    ("denoiser.path=null", "denoiser.path"),
    ("data.name=folder", "data.root"),
    ("data={name: folder, root: /no/such}", "/no/such"),
    ("data={name: torch/cifar10, root: .}", "torch/cifar10"),
    # impossible values
    ("purifier.t_small=0.3", "purifier.t_small is 0.3; accepted: below t_large = 0.2"),
    ("purifier.t_small=0.2", "purifier.t_small"),
    ("purifier.t_small=-0.1", "purifier.t_small"),
    ("purifier.t_large=1.2", "purifier.t_large"),
    ("purifier.tau=1.5", "purifier.tau"),
    ("purifier.tau=-0.1", "purifier.tau"),
    ("purifier.tau=.nan", "purifier.tau"),
    ("purifier.top_fraction=0", "purifier.top_fraction"),
    ("purifier.eta=2", "purifier.eta"),
    ("purifier={name: uniform, eta: -1}", "purifier.eta"),
    ("purifier={name: uniform, t: 0}", "purifier.t"),
    ("purifier.grid_size=7", "purifier.grid_size"),
    ("purifier.grid_size=0", "purifier.grid_size"),
    ("purifier.grid_size=4", "purifier.grid_size"),
    ("purifier.U=0", "purifier.U"),
    ("purifier.p=0", "purifier.p"),
    ("purifier.order=mine", "purifier.order"),
    ("purifier.resampling=double", "purifier.resampling"),
    ("purifier.name=magic", "purifier.name"),
    ("purifier.preset=magic", "purifier.preset"),
    ("purifier.blocks=[no_such]", "purifier.blocks"),
    ("purifier.blocks=[head]", "purifier.blocks"),
    ("purifier.blocks=[0, 1]", "purifier.blocks"),
    ("purifier.blocks=null", "purifier.blocks"),
    ("attack.eps=-0.1", "attack.eps"),
    ("attack.eps=.nan", "attack.eps"),
    ("attack.steps=0", "attack.steps"),
    ("attack.step_size=0", "attack.step_size"),
    ("attack.eot=0", "attack.eot"),
    ("attack.norm=L1", "attack.norm"),
    ("attack.name=magic", "attack.name"),
    ("attack.process.t_small=0.5", "attack.process.t_small"),
    ("attack.process.name=magic", "attack.process.name"),
    ("ensemble.size=0", "ensemble.size"),
    ("ensemble.mode=max", "ensemble.mode"),
    ("protocols.resubmissions=0", "protocols.resubmissions"),
    ("protocols.votes=-1", "protocols.votes"),
    ("protocols=all", "protocols"),
    ("honesty.images=-1", "honesty.images"),
    ("honesty.factor=1", "honesty.factor"),
    ("honesty=perhaps", "honesty"),
    ("rows={a: {honesty: {images: 3}}}", "rows.a.honesty"),
    ("data.subset=501", "data.subset"),
    ("data.subset=0", "data.subset"),
    ("data.batch_size=0", "data.batch_size"),
    ("data.name=magic", "data.name"),
    ("data.test_split=magic", "magic"),
    ("data.image_size=0", "data.image_size"),
    ("chunk_size=0", "chunk_size"),
    ("threads=0", "threads"),
    ("pictures=-1", "pictures"),
    ("seed=-1", "seed"),
    ("trainer.accelerator=magic", "trainer"),
    ("trainer.precision=3", "trainer"),
    ("wandb.mode=loud", "wandb.mode"),
    # what does not fit together
    ("denoiser.path={theirs}/denoiser16", "16x16"),
    ("denoiser.path={theirs}/denoiser_rgb", "3 channels"),
    (
        "classifier={name: tests.toys:TinyNetwork, weights: random, arguments: {classes: 7}}",
        "gives 7 class scores, but the data have 10",
    ),
    ("classifier={name: tests.toys:TinyNetwork, weights: random, arguments: {channels: 3}}", "1x8x8"),
    ("classifier.weights=", "classifier.weights is None, and "),
    ("classifier.arguments.width=7", "other shapes"),
    ("classifier.arguments.depth=7", "classifier.arguments"),
    ("classifier.pretrained=true", "classifier.pretrained"),
    # no override
    ("attack.eps", "attack.eps: is not an override"),
]


@pytest.mark.parametrize(("override", "expected"), BAD, ids=[bad for bad, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(
    theirs: Path, tmp_path: Path, capfd, override: str, expected: str
) -> None:
    assert_refused(theirs, tmp_path / "run", capfd, [override.replace("{theirs}", str(theirs))], expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("data: [1", "cannot be read as YAML"), ("- a\n- b\n", "mapping"), ("a: b: c\n", "cannot be read as YAML")],
)
def test_bad_config_files(theirs: Path, tmp_path: Path, capfd, text: str, expected: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    assert_refused(theirs, tmp_path / "run", capfd, [], expected, config=str(tmp_path / "bad.yaml"))


def test_a_missing_config_file(theirs: Path, tmp_path: Path, capfd) -> None:
    assert_refused(theirs, tmp_path / "run", capfd, [], "demoo.yaml: no such file", config="demoo.yaml")


def test_bad_weights_files(theirs: Path, tmp_path: Path, capfd) -> None:
    whole = (theirs / "weights.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 cut")
    torch.save({"head.bias": torch.zeros(10), "extra": Touch(tmp_path / "ran")}, tmp_path / "code.pt")
    for name in ("cut.safetensors", "cut.pt", "code.pt"):
        assert_refused(theirs, tmp_path / "run", capfd, [f"classifier.weights={tmp_path / name}"], "classifier.weights")
    assert not (tmp_path / "ran").exists()


def test_bad_denoiser_folders(theirs: Path, tmp_path: Path, capfd) -> None:
    folder = copy(theirs / "denoiser", tmp_path / "cut")
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    (tmp_path / "empty").mkdir()
    for name in ("cut", "empty"):
        assert_refused(theirs, tmp_path / "run", capfd, [f"denoiser.path={tmp_path / name}"], "denoiser.path")


def test_an_output_that_is_a_file(theirs: Path, tmp_path: Path, capfd) -> None:
    (tmp_path / "taken").touch()
    assert_refused(theirs, tmp_path / "taken", capfd, [], "output", fresh=False)
    assert_refused(theirs, tmp_path / "taken" / "below", capfd, [], "output")


@pytest.mark.slow
def test_bad_input_as_a_person_meets_it(theirs: Path, tmp_path: Path) -> None:
    """The command itself, with everything that imports print on the way."""
    file = tmp_path / "code.pt"
    torch.save({"head.bias": torch.zeros(10), "extra": Touch(tmp_path / "ran")}, file)
    done = subprocess.run(
        command(theirs, tmp_path / "run", f"classifier.weights={file}"),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: classifier.weights: [^\n]*\n", done.stderr), "Lightning's notices, for one"
    assert done.stdout == "" and not (tmp_path / "run").exists() and not (tmp_path / "ran").exists()


# ---- looking before leaping


@pytest.mark.slow
def test_an_offline_run_writes_nothing_into_the_home_directory(theirs: Path, tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    places = {"HOME": str(home), "TMPDIR": str(temporary), "WANDB_MODE": "offline", "PYTHONPATH": str(PROJECT_ROOT)}
    kept = {name: os.environ[name] for name in ("PATH", "HF_HUB_OFFLINE", "OMP_NUM_THREADS") if name in os.environ}
    options = ("data.subset=1", "purifier={name: none}", "attack={name: none}", "pictures=1", "wandb.mode=auto")
    done = subprocess.run(
        command(theirs, tmp_path / "run", *options), env=kept | places, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert [path.name for path in temporary.glob("*matplotlib*")] == [f"hetpure-matplotlib-{os.getuid()}"]


def test_print_config_shows_everything_and_runs_nothing(theirs: Path, tmp_path: Path, capsys) -> None:
    arguments = [
        "--config",
        str(theirs / "job.yaml"),
        "--print-config",
        f"output={tmp_path / 'run'}",
        "attack.eps=8/255",
    ]
    assert main(["evaluate", *arguments]) == 0
    text = capsys.readouterr().out
    shown: dict[str, Any] = yaml.safe_load(text)
    assert shown["attack"]["eps"] == pytest.approx(8 / 255, rel=1e-15)
    assert shown["purifier"]["preset"] == "released" and shown["purifier"]["t_large"] == 0.2
    assert not (tmp_path / "run").exists()
    # What is shown is a config that says the same.
    (tmp_path / "again.yaml").write_text(text)
    assert main(["evaluate", "--config", str(tmp_path / "again.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text


EVALUATIONS = [p.name for p in sorted((PROJECT_ROOT / "configs").glob("*.yaml")) if "attack" in read_config(str(p), [])]


@pytest.mark.parametrize("name", EVALUATIONS)
def test_shipped_evaluation_configs_are_complete(name: str) -> None:
    assert complete({**read_config(name, []), "output": "unused"}).attack["name"]


def test_the_paper_preset_from_a_config(theirs: Path) -> None:
    raw = read_config(str(theirs / "job.yaml"), [])
    raw["purifier"] = {"name": "heterogeneous", "preset": "paper", "tau": 0.7}
    del raw["ensemble"]["mode"]
    config = complete({**raw, "output": "unused"})
    assert [config.purifier[key] for key in ("order", "U", "tau")] == ["paper", 10, 0.7]
    assert config.ensemble.mode == "mean_logits"
    raw["purifier"]["preset"] = "released"
    assert complete({**raw, "output": "unused"}).ensemble.mode == "vote"


def test_help_explains(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "Evaluate purifiers" in shown and "--print-config" in shown and "hetpure configs" in shown
