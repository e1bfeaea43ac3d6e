"""``--plan`` against what then happens: calls exactly, memory and seconds within stated tolerances."""

import importlib.util
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import hetpure.evaluation.build
from hetpure.cli import main
from hetpure.config import read_config
from hetpure.data import ImageDataModule
from hetpure.data.items import item
from hetpure.errors import ConfigError
from hetpure.evaluation.build import Row, build_rows
from hetpure.evaluation.config import complete
from hetpure.evaluation.run import evaluate_row, evaluation_trainer
from hetpure.models.classifiers import Classifier
from hetpure.planning.counting import Piece
from hetpure.planning.live_bytes import LiveBytes
from hetpure.planning.measure import Cost, Meter
from hetpure.planning.plan import RowPlan, hours_at, parse_rates, plan, plan_rows
from hetpure.purification.registry import PURIFIERS
from tests.purification.networks import network_settings
from tests.toys import ToyDenoiser, images, tiny_classifier, tiny_denoiser

PURIFIER_CASES: dict[str, dict[str, Any]] = {
    "none": {},
    "uniform": {"t": 0.1, "grid_size": 20},
    "heterogeneous": {"grid_size": 20, "blocks": ["block1", "block2"], "tau": 0.5},
    "diffpure_sde": {"t": 0.1, "grid_size": 50},
    "diffpure_ode": {"t": 0.1, "grid_size": 50, "solver": "heun"},
    "adp": {"sigma": 0.1, "score_steps": 3},
    "menet": {"p": 0.7, "share": 0.5},
    "freqpure": {"t": [0.02, 0.06], "network_calls": [2, 3]},
    "gdmp": {"t": 0.006, "rounds": 2, "scale": 1.0},
    "gns": {"t": [0.03, 0.1], "network_calls": [3, 5]},
    "contrastive": {"t": 0.06, "grid_size": 50, "scale": 20.0, "negatives": 3},
    "lorid": {"t": 0.02, "loops": 2, "network_calls": 2, "share": 0.5},
    "mimic": {"grid_size": 10, "short_range": 32.0, "long_range": 32.0},
    "ebm": {"network": network_settings("ToyEnergy"), "langevin_steps": 3},
    "atop": {"network": network_settings("ToyInpainter"), "block": 2},
    "pixeldefend": {"network": network_settings("ToyPixelCNN"), "shape": [1, 8, 8]},
    "flowpure": {"network": network_settings("ToyVelocity"), "network_calls": 3},
}
"""Others are tried with their defaults."""

ATTACK_CASES: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "pgd": {"name": "pgd", "steps": 2, "eot": 2},
    "pgd recomputed": {"name": "pgd", "steps": 2, "eot": 2, "recompute": True},
    "pgd partly recomputed": {"name": "pgd", "steps": 2, "eot": 2, "recompute": 0.1},
    "pgd restarts": {"name": "pgd", "steps": 2, "eot": 2, "restarts": 3, "evaluations": 3},
    "pgd L2": {"name": "pgd", "norm": "L2", "eps": 0.5, "steps": 2, "eot": 3},
    "apgd": {"name": "apgd", "steps": 5, "eot": 2, "restarts": 2, "evaluations": 3},
    "apgd targeted": {"name": "apgd", "steps": 2, "eot": 2, "loss": "dlr_targeted", "targets": 2, "evaluations": 3},
    "momentum": {"name": "momentum_pgd", "steps": 4, "eot": 2, "checks": 2, "evaluations": 3},
    "selective": {"name": "selective", "steps": 4, "eot": 3, "grafts": 2, "checks": 2, "evaluations": 3},
    "selective bpda": {"name": "selective", "steps": 2, "eot": 2, "checks": 1, "evaluations": 3, "gradient": "bpda"},
    "stadv": {"name": "stadv", "steps": 3, "eot": 2},
    "autoattack": {"name": "autoattack", "steps": 3, "eot": 2, "evaluations": 3},
    "random noise": {"name": "random_noise"},
    "surrogate": {"name": "pgd", "steps": 2, "eot": 2, "process": {"grid_size": 10}},
    "bpda": {"name": "pgd", "steps": 2, "eot": 2, "gradient": "bpda"},
    "deterministic": {"name": "pgd", "steps": 2, "gradient": "deterministic"},
    "blind": {"name": "pgd", "steps": 2, "eot": 2, "gradient": "blind"},
    "mask-aware": {"name": "pgd", "steps": 2, "eot": 2, "gradient": {"name": "mask_aware"}},
}


class Counted(ToyDenoiser):
    """Counts the rows that it is asked about, and can take its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.rows: Counter[str] = Counter()

    def forward(self, x: Tensor, t: int) -> Tensor:
        gradient = torch.is_grad_enabled() and x.requires_grad
        self.rows["denoiser_gradient" if gradient else "denoiser"] += len(x)
        time.sleep(self.seconds)
        return super().forward(x, t)


class Constant(torch.nn.Module):
    """Always the same class, with a gradient of zero."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.block1, self.block2 = torch.nn.Conv2d(1, 2, 3), torch.nn.Conv2d(2, 2, 3)
        self.label = label

    def forward(self, x: Tensor) -> Tensor:
        one = torch.nn.functional.one_hot(torch.tensor(self.label), 10)
        return 0.0 * self.block2(self.block1(x)).mean(dim=(1, 2, 3))[:, None] + one


class Setting:
    """Rows of a config whose networks count."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, output: Path, seconds: float = 0.0) -> None:
        self.denoiser = Counted(seconds)
        self.classifier = tiny_classifier()
        self.output = output
        monkeypatch.setattr(hetpure.evaluation.build, "build_denoiser", lambda **_: self.denoiser)
        monkeypatch.setattr(hetpure.evaluation.build, "build_classifier", lambda **_: self.classifier)

    def raw(self, purifier: dict[str, Any], attack: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "data": {"name": "digits", "subset": 5, "batch_size": 3},
            "classifier": {"name": "cifar_resnet8"},
            "denoiser": {"path": "counted"},
            "purifier": purifier,
            "attack": {"eps": 0.1, "step_size": 0.05, "recompute": False, **attack}
            if attack["name"] == "pgd"
            else attack,
            "ensemble": {"size": 3, "mode": "mean_logits"},
            "chunk_size": 4,
            "threads": 1,
            "pictures": 0,
            "trainer": {"accelerator": "cpu"},
            "wandb": {"mode": "disabled"},
            "output": str(self.output),
            **more,
        }

    def planned(self, raw: dict[str, Any]) -> tuple[RowPlan, list[Row], ImageDataModule]:
        config = complete(raw)
        data = ImageDataModule("digits", subset=config.data.subset, batch_size=config.data.batch_size).prepare()
        rows = build_rows(config, data)
        (row,) = plan_rows(config, rows, data, 1e-9, 1, torch.device("cpu"))
        return row, rows, data

    def counted(self, rows: list[Row], data: ImageDataModule) -> Cost:
        """The rows through the networks of a real evaluation."""
        found: Counter[str] = Counter()

        def note(_module: Any, arguments: tuple[Tensor, ...]) -> None:
            gradient = torch.is_grad_enabled() and arguments[0].requires_grad
            found["classifier_gradient" if gradient else "classifier"] += len(arguments[0])

        self.denoiser.rows.clear()
        handle = self.classifier.network.register_forward_pre_hook(note)
        evaluate_row(rows[0], evaluation_trainer({"accelerator": "cpu"}), data)
        handle.remove()
        return Cost(**self.denoiser.rows, **found)


def network_rows(cost: Cost) -> list[float]:
    return [cost.denoiser, cost.denoiser_gradient, cost.classifier, cost.classifier_gradient]


@pytest.mark.parametrize("name", PURIFIERS)
def test_calls_of_every_purifier_are_exact(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = Setting(monkeypatch, tmp_path)
    purifier = {"name": name, **PURIFIER_CASES.get(name, {})}
    # What has no derivative refuses an exact gradient.
    attack = ATTACK_CASES["pgd"] | ({} if PURIFIERS[name].differentiable else {"gradient": "bpda"})
    row, rows, data = setting.planned(setting.raw(purifier, attack))
    assert network_rows(row.most) == network_rows(setting.counted(rows, data))
    assert row.most.classifier_gradient > 0
    if name == "uniform":
        # Two batches, of 3 and 2 images: 6 and 4 rows of a gradient, in chunks of 4; two iterations, two calls.
        assert row.most.denoiser_gradient == 3 * 4 * 2 * 2
    assert not list(tmp_path.rglob("config.yaml"))


EARLY = ("pgd restarts", "apgd", "apgd targeted", "momentum", "selective", "autoattack")
"""Attacks that leave broken samples alone."""


@pytest.mark.parametrize(
    "name,outcome",
    [*((name, "stands") for name in ATTACK_CASES), *((name, how) for name in EARLY for how in ("mixed", "falls"))],
)
def test_calls_of_every_attack_are_exact(
    name: str, outcome: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exact at both ends, where no image and where every image is broken from the start; between them otherwise."""
    setting = Setting(monkeypatch, tmp_path)
    if outcome != "mixed":
        network = Constant(0 if outcome == "stands" else 1)
        setting.classifier = Classifier(network, [0.4], [0.3]).eval().requires_grad_(False)
    raw = setting.raw({"name": "heterogeneous", **PURIFIER_CASES["heterogeneous"]}, ATTACK_CASES[name])
    row, rows, data = setting.planned({**raw, "protocols": {"resubmissions": 2, "votes": 4}})
    if outcome != "mixed":
        data.test_dataloader = lambda: _zero_labels(ImageDataModule.test_dataloader(data))  # pyright: ignore
    counted = network_rows(setting.counted(rows, data))
    assert (row.most != row.least) is (name in EARLY)
    if outcome == "mixed":
        for least, count, most in zip(network_rows(row.least), counted, network_rows(row.most), strict=True):
            assert least <= count <= most
    else:
        assert counted == network_rows(row.most if outcome == "stands" else row.least)


def test_an_attack_that_images_leave_early_is_planned_between_its_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At most: an image that all draws get wrong, and then one draw of every second trial right; at least: broken."""
    attack = {"name": "pgd", "steps": 6, "eot": 2, "evaluations": 3}
    costs, counted = [], []
    for skip, label in ((True, None), (True, 1), (False, None)):
        setting = Setting(monkeypatch, tmp_path / f"{skip}{label}")
        if label is not None:
            setting.classifier = Classifier(Constant(label), [0.4], [0.3]).eval().requires_grad_(False)
        uniform = {"name": "uniform", **PURIFIER_CASES["uniform"]}
        row, rows, data = setting.planned(setting.raw(uniform, {**attack, "skip_broken": skip}))
        if label is not None:
            data.test_dataloader = lambda data=data: _zero_labels(ImageDataModule.test_dataloader(data))  # pyright: ignore
        costs.append(row)
        counted.append(network_rows(setting.counted(rows, data)))
    (mixed, broken, plain) = costs
    assert counted[1] == network_rows(broken.least)
    for least, count, most in zip(network_rows(mixed.least), counted[0], network_rows(mixed.most), strict=True):
        assert least <= count <= most
    # Looked at in the iterations 0, 1, 2 and 4, by 1, 2 and 3 draws of 3 and 2 images in chunks of 4; two calls each.
    assert mixed.most.denoiser - plain.most.denoiser == 4 * ((4 + 8 + 12) + (4 + 4 + 8)) * 2
    assert mixed.most.denoiser_gradient == plain.most.denoiser_gradient == 6 * mixed.least.denoiser_gradient


def test_padding_and_the_batches_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = Setting(monkeypatch, tmp_path)
    raw = setting.raw({"name": "uniform", **PURIFIER_CASES["uniform"]}, {"name": "pgd", "steps": 1, "eot": 2})
    row, *_ = setting.planned(raw)
    # Of batches of 3 and 2 images 6 and 4 rows with gradients, and 18 and 12 of both predictions, in chunks of 4.
    assert row.padding == pytest.approx(1 - (10 + 30) / (8 + 4 + 20 + 12)) and row.full_batch == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(raw))
    assert main(["plan", "--config", "job.yaml", "--seconds", "0.01"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "9 %" in printed and "now 3, a multiple of: uniform 2" in printed
    assert setting.planned({**raw, "data": {**raw["data"], "subset": 4, "batch_size": 2}})[0].padding == 0.0


def test_calls_of_a_deviation_are_those_of_an_exact_gradient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = Setting(monkeypatch, tmp_path)
    purifier = {"name": "uniform", **PURIFIER_CASES["uniform"]}
    exact, _, _ = setting.planned(setting.raw(purifier, ATTACK_CASES["pgd"]))
    row, rows, data = setting.planned(setting.raw(purifier, {**ATTACK_CASES["pgd"], "gradient": "deviation"}))
    assert network_rows(row.most) == network_rows(exact.most) == network_rows(setting.counted(rows, data))


@pytest.mark.parametrize("outcome", ["stands", "falls"])
def test_calls_of_a_choice_among_saved_images_are_exact(
    outcome: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setting = Setting(monkeypatch, tmp_path / "run")
    network = Constant(0 if outcome == "stands" else 1)
    setting.classifier = Classifier(network, [0.4], [0.3]).eval().requires_grad_(False)
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", np.stack([each["image"] for each in _images(5)]))
    folders = [str(tmp_path / f"{name}.npy") for name in "abc"]
    attack = {"name": "strongest_of", "norm": "Linf", "eps": 0.1, "folders": folders, "evaluations": 5}
    row, rows, data = setting.planned(setting.raw({"name": "uniform", **PURIFIER_CASES["uniform"]}, attack))
    # Batches of 3 and 2 images; 5 evaluations and, of the clean and the chosen image, 3 predictions; 2 calls each.
    tried, judged = (-(-15 // 4) + -(-10 // 4)) * 4 * 2, (-(-18 // 4) + -(-12 // 4)) * 4 * 2
    assert (row.most.denoiser, row.least.denoiser) == (3 * tried + judged, tried + judged)
    data.test_dataloader = lambda: _zero_labels(ImageDataModule.test_dataloader(data))  # pyright: ignore
    found = network_rows(setting.counted(rows, data))
    assert found == network_rows(row.most if outcome == "stands" else row.least)


@pytest.mark.parametrize(("n", "attack"), [(30, "pgd"), (3, "pgd"), (30, "none")])
def test_calls_of_certificates_are_exact(n: int, attack: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """30 equal votes have a radius, so the image that the attack leaves as it is is looked at again; 3 abstain."""
    setting = Setting(monkeypatch, tmp_path)
    setting.classifier = Classifier(Constant(0), [0.4], [0.3]).eval().requires_grad_(False)
    certify = {"n0": 5, "n": n, "alpha": 0.001}
    row, rows, data = setting.planned(
        setting.raw({"name": "denoised_smoothing"}, ATTACK_CASES[attack], certify=certify)
    )
    assert network_rows(setting.counted(rows, data)) == network_rows(row.most if n == 30 else row.least)
    assert (row.most != row.least) is (attack == "pgd")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("torchattacks:EOTPGD", {"steps": 2, "eot_iter": 3}),
        ("foolbox:LinfPGD", {"steps": 2}),
        ("art:ProjectedGradientDescent", {"max_iter": 2, "eps_step": 0.01}),
    ],
)
def test_calls_of_other_libraries_attacks_are_exact(
    name: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if importlib.util.find_spec(name.partition(":")[0]) is None:
        pytest.skip(f"needs the extra {name.partition(':')[0]}")
    setting = Setting(monkeypatch, tmp_path)
    attack = {"name": name, "norm": "Linf", "eps": 0.05, "arguments": arguments, "eot": 2}
    purifier = {"name": "heterogeneous", **PURIFIER_CASES["heterogeneous"]}
    row, rows, data = setting.planned(setting.raw(purifier, attack))
    assert network_rows(row.most) == network_rows(setting.counted(rows, data)) and row.most.denoiser_gradient > 0


def test_published_attacks_are_planned_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Square's queries, one image at a time, are a bound; it stops when an image is broken."""
    if importlib.util.find_spec("pyautoattack") is None:
        pytest.skip("needs the extra autoattack")
    setting = Setting(monkeypatch, tmp_path)
    attack = {"name": "autoattack", "version": "standard", "steps": 2, "targets": 2, "queries": 30, "evaluations": 2}
    row, rows, data = setting.planned(setting.raw({"name": "none"}, attack))
    found = setting.counted(rows, data)
    assert found.classifier <= row.most.classifier and row.most.classifier > 5 * 30
    assert row.most != row.least


@pytest.mark.parametrize("recompute", [False, True, 0.1])
@pytest.mark.parametrize(
    "name,gradient", [("uniform", "exact"), ("uniform", "bpda"), ("heterogeneous", "exact"), ("none", "exact")]
)
def test_memory_is_what_a_gradient_needs(
    name: str, gradient: str, recompute: bool | float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From one and two rows of parts to eight rows of the whole: within 20 %."""
    monkeypatch.setattr("hetpure.models.denoisers.SHELF_BYTES", 1)
    setting = Setting(monkeypatch, tmp_path)
    monkeypatch.setattr(hetpure.evaluation.build, "build_denoiser", lambda **_: tiny_denoiser())
    attack = {**ATTACK_CASES["pgd"], "eot": 8, "recompute": recompute, "gradient": gradient}
    row, rows, _ = setting.planned(setting.raw({"name": name, **PURIFIER_CASES[name]}, attack, chunk_size=8))
    source = rows[0].gradient
    assert source is not None
    x, zero = images(8 if name == "none" else 1), torch.zeros(8 if name == "none" else 1, dtype=torch.long)
    with LiveBytes() as counted:
        source(x, zero, zero, 0)
    assert counted.peak == pytest.approx(row.memory(8), rel=0.2)


def test_seconds_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A network that sleeps takes as long on a busy machine: within 25 %, whole pieces timed and not."""
    setting = Setting(monkeypatch, tmp_path, seconds=0.02)
    config = complete(setting.raw({"name": "uniform", "t": 0.1, "grid_size": 20}, ATTACK_CASES["pgd"]))
    data = ImageDataModule("digits", subset=5, batch_size=3).prepare()
    rows = build_rows(config, data)
    plans = [plan_rows(config, rows, data, seconds, 1, torch.device("cpu"))[0] for seconds in (1e-9, 1.5)]
    # Without time for more than one row, a call of four is taken for four: this network's sleep does not grow.
    assert plans[0].most.seconds > 2 * plans[1].most.seconds
    start = time.perf_counter()
    evaluate_row(rows[0], evaluation_trainer({"accelerator": "cpu"}), data)
    took = time.perf_counter() - start
    assert plans[1].most.seconds == pytest.approx(sum(r.seconds for r in rows[0].store.read()), rel=0.25)
    assert plans[1].most.seconds <= took
    again = plan_rows(config, rows, data, 0.5, 1, torch.device("cpu"))[0]
    assert (again.done, again.left) == (5, 0.0) and again.most.seconds > 0.0


def test_processes_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = Setting(monkeypatch, tmp_path, seconds=0.01)
    config = complete(setting.raw({"name": "uniform", "t": 0.1, "grid_size": 20}, ATTACK_CASES["pgd"], chunk_size=1))
    data = ImageDataModule("digits", subset=6, batch_size=3).prepare()
    rows = build_rows(config, data)
    one, three = (plan_rows(config, rows, data, 0.5, world, torch.device("cpu"))[0] for world in (1, 3))
    assert (one.images, three.images) == (6, 2)
    assert network_rows(three.most * 3) == network_rows(one.most)
    assert three.most.seconds == pytest.approx(one.most.seconds / 3, rel=0.25)


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row of the shipped demo, its honesty checks, hours elsewhere; nothing is written."""
    settings = ["--config", "digits.yaml", f"output={tmp_path}/out", "threads=1", "data.subset=4", "honesty=true"]
    assert main(["evaluate", *settings, "--plan", "--plan-seconds=0.1", "--plan-rate=denoiser=10"]) == 0
    out = capsys.readouterr().out
    for name in ("undefended", "uniform", "heterogeneous", "heterogeneous, huge_eps"):
        assert re.search(rf"│ {name} +│", out)
    assert "the classifier counts as free" in out
    assert not (tmp_path / "out").exists()
    for bad in ("denoiser", "denoiser=0", "network=4", "denoiser=1,2,3"):
        assert main(["evaluate", *settings, "--plan", f"--plan-rate={bad}"]) == 2
        assert f"--plan-rate is {bad!r}; accepted: denoiser=RATE" in capsys.readouterr().err
    for bad in ("0.0", "inf", "nan"):
        assert main(["evaluate", *settings, "--plan", f"--plan-seconds={bad}"]) == 2
        assert capsys.readouterr().err == f"error: --plan-seconds is {bad}; accepted: a finite number above 0\n"


def test_absent_rows_are_said_with_what_they_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = read_config("digits.yaml", []) | {"table": {"columns": {"pgd": {}}}, "output": str(tmp_path / "out")}
    raw |= {"rows": {"lost": {"classifier": {"weights": "nowhere.pt"}}}, "threads": 1}
    assert plan(complete(raw), 0.1) == []
    assert "plan: lost/pgd cannot be evaluated here: classifier.weights: nowhere.pt: no such file" in (
        capsys.readouterr().out
    )


def test_rates() -> None:
    rates = parse_rates(["denoiser=100,40", "classifier=200"])
    assert rates == {"denoiser": 100, "denoiser_gradient": 40, "classifier": 200, "classifier_gradient": 100}
    cost = Cost(denoiser=36000, denoiser_gradient=14400, classifier=0, classifier_gradient=36000)
    assert hours_at(cost, rates) == pytest.approx(0.1 + 0.1 + 0.1)
    assert hours_at(cost, parse_rates(["denoiser=100,40"])) == pytest.approx(0.1 + 0.1)
    with pytest.raises(ConfigError):
        parse_rates(["denoiser=a"])


def test_flops_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of all rows in all calls: forward, and with the gradient of the input once more."""
    setting = Setting(monkeypatch, tmp_path)
    denoiser = tiny_denoiser()
    monkeypatch.setattr(hetpure.evaluation.build, "build_denoiser", lambda **_: denoiser)
    flops = {}
    for steps in (100, 200):
        raw = setting.raw({"name": "uniform", "t": 0.1, "grid_size": steps}, ATTACK_CASES["pgd"])
        _, (row,), data = setting.planned(raw)
        meter = Meter(data, torch.device("cpu"), 1e-9)
        for work in ("prediction", "gradient"):
            piece = Piece(row.processes[0], work, 4)
            flops[steps, work] = meter.costs({piece: 1})[piece].flops
    of_a_call, of_the_classifier = (FlopCounterMode(display=False) for _ in range(2))
    with of_a_call:
        denoiser(images(1), 1)
    with of_the_classifier:
        setting.classifier(images(1))
    for steps, calls in ((100, 10), (200, 20)):
        forward = 4 * (calls * of_a_call.get_total_flops() + of_the_classifier.get_total_flops())
        assert flops[steps, "prediction"] == forward > 0
        assert 1.8 < flops[steps, "gradient"] / forward < 2.2


def _images(count: int) -> list[Any]:
    data = ImageDataModule("digits", subset=count).prepare()
    return [item(data.test_source, index) for index in data.indices]


def _zero_labels(loader: Any) -> Any:
    for batch in loader:
        yield {**batch, "label": torch.zeros_like(batch["label"])}
