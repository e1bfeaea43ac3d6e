"""Every honesty check passing and failing: on records made up for it, and on planted broken attacks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hetpure.attacks.base import Attack, Threat
from hetpure.attacks.deviation import DeviationGradient
from hetpure.attacks.gradients import ExactGradient, Gradient
from hetpure.attacks.norms import Linf
from hetpure.attacks.registry import ATTACKS, build_attack, complete_attack
from hetpure.attacks.stadv import Flow
from hetpure.config import read_config, to_dict
from hetpure.data import ImageDataModule
from hetpure.evaluation.build import build_rows
from hetpure.evaluation.config import RunSettings, complete
from hetpure.evaluation.run import run
from hetpure.evaluation.variants import variants
from hetpure.purification.none import NoPurifier
from hetpure.runs import honesty
from hetpure.runs.certificates import Certificate
from hetpure.runs.records import Record
from hetpure.runs.results import Report
from tests.evaluation import jobs
from tests.purification.networks import network_settings


def attacked(outcome: str, clean: str | None = None, **values) -> list[Record]:
    """Records of attacked samples that stayed right (1) or were broken (0)."""
    values = {"attack_loss": [0.1, 0.5, 2.0, 3.0], "gradient_size": [1e-3, 1.0, 1.0, 1.0]} | values
    before = clean or "1" * len(outcome)
    return [
        Record(k, "one-shot", 1, [int(before[k])], [], [int(right)], [], **values) for k, right in enumerate(outcome)
    ]


def curves(*losses: list[float]) -> list[Record]:
    return [replace(record, attack_loss=loss) for record, loss in zip(attacked("0" * len(losses)), losses, strict=True)]


def test_an_attack_without_a_gradient_is_named() -> None:
    fine, none = attacked("0011"), attacked("1111", gradient_size=[0.0, 0.0])
    assert honesty.blind(fine) is None and honesty.blind([]) is None
    assert honesty.blind([*fine[:3], none[3]]) is None  # a confident classifier's, now and then
    assert honesty.blind([*fine[:2], *none[2:]]) == "2 of 4 images"
    assert "SAW NO GRADIENT (ours: 2 of 4 images)" in str(Report("t", [], blind={"ours": "2 of 4 images"}).warning)


def test_rounding_is_seen_through_without_any_flag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    """A purifier that rounds looks perfectly robust to exact gradients: the report's top says why."""
    monkeypatch.setattr(NoPurifier, "purify", lambda self, x, draws: (8 * x).round() / 8)
    raw = read_config(
        "digits.yaml", ["rows=null", "purifier.name=none", "data.subset=4", "attack.steps=1", "wandb.mode=disabled"]
    )
    run(complete(raw | {"output": str(tmp_path), "threads": 1}))
    assert "THE ATTACK SAW NO GRADIENT (none: 4 of 4 images)" in capsys.readouterr().out.replace("\n", " ")
    assert "THE ATTACK SAW NO GRADIENT" in (tmp_path / "report.html").read_text()


def test_loss_rises() -> None:
    rising = curves(*([0.1 * k, 0.3 + 0.1 * k, 1.0 + 0.2 * k, 2.0] for k in range(8)))
    assert honesty.loss_rises(rising).passed is True
    assert "higher in 8 of 8" in honesty.loss_rises(rising).details
    falling = [replace(r, attack_loss=r.attack_loss[::-1]) for r in rising]
    assert honesty.loss_rises(falling).passed is False
    # A loss that only jitters with the EOT draws.
    generator = torch.Generator().manual_seed(0)
    still = curves(*(torch.rand(40, generator=generator).tolist() for _ in range(8)))
    assert honesty.loss_rises(still).passed is False
    assert honesty.loss_rises(curves([1.0])).passed is None
    # Of an attack that goes on with another loss, the first run counts.
    assert honesty.loss_rises([replace(r, attack_loss=[*r.attack_loss, -9.0]) for r in rising], 4).passed is True


def test_a_stronger_attack_never_raises_accuracy() -> None:
    def found(base: str, stronger: str) -> honesty.Verdict:
        return honesty.never_raises("more iterations", "2 times", attacked(base), attacked(stronger))

    assert found("1" * 10 + "0" * 10, "0" * 20).passed is True
    assert found("1" * 10 + "0" * 10, "1" * 12 + "0" * 8).passed is True, "two more could be noise"
    worse = found("1" * 10 + "0" * 10, "1" * 15 + "0" * 5)
    assert worse.passed is False, "five of five: p = 1/32"
    assert "0 broken only with it, 5 only without it, p = 0.031" in worse.details
    assert honesty.never_raises("a", "b", attacked("11"), []).passed is None


def test_only_samples_that_both_have_are_compared() -> None:
    verdict = honesty.never_raises("a", "b", attacked("0" * 50), attacked("0" * 8))
    assert "0 of 8 images right" in verdict.details


def test_a_huge_eps_leaves_next_to_nothing() -> None:
    base = attacked("1" * 32)
    assert honesty.huge_eps(base, attacked("0" * 32)).passed is True
    assert honesty.huge_eps(base, attacked("1" + "0" * 31)).passed is True
    assert honesty.huge_eps(base, attacked("11" + "0" * 30)).passed is False
    assert honesty.huge_eps(attacked("11"), attacked("10")).passed is False
    assert honesty.huge_eps(base, []).passed is None


def test_random_noise_does_far_less_harm() -> None:
    broken, whole = attacked("0" * 10), attacked("1" * 10)
    assert honesty.random_noise(broken, whole).passed is True
    assert honesty.random_noise(whole, whole).passed is False, "an attack that does nothing"
    assert honesty.random_noise(broken, attacked("0" * 6 + "1" * 4)).passed is False, "more than half of the harm"
    assert honesty.random_noise(attacked("0" * 2 + "1" * 8), whole).passed is None, "too few to tell"


def test_transfer_is_weaker() -> None:
    assert honesty.transfer(attacked("0" * 10), attacked("1" * 10)).passed is True
    assert honesty.transfer(attacked("1" * 10), attacked("0" * 10)).passed is False
    assert honesty.transfer(attacked("1" * 10), attacked("0" + "1" * 9)).passed is True, "one could be noise"


def test_gradients_are_nowhere_zero_or_nan() -> None:
    assert honesty.gradients(attacked("0011")).passed is True
    assert "at least 0.001 in 16 gradients" in honesty.gradients(attacked("0011")).details
    vanished = [replace(r, gradient_size=[1.0, 0.0]) if r.index == 2 else r for r in attacked("0011")]
    verdict = honesty.gradients(vanished)
    assert verdict.passed is False and "sample 2" in verdict.details
    failed = [replace(r, failure="NaN") if r.index == 3 else r for r in attacked("0011")]
    verdict = honesty.gradients(failed)
    assert verdict.passed is False and "not finite in 1 images (sample 3)" in verdict.details
    assert honesty.gradients(attacked("0011", gradient_size=[])).passed is None


@pytest.mark.parametrize(
    ("norm", "eps", "delta", "passed"),
    [
        ("Linf", 0.1, 0.1, True),
        ("Linf", 0.1, 0.1001, False),
        ("L2", 0.8, 0.1, True),
        ("L2", 0.79, 0.1, False),
        ("Linf", 0.5, 0.5, False),  # 0.7 + 0.5 leaves [0, 1]
        ("Linf", 0.1, float("nan"), False),
    ],
)
def test_every_saved_image_is_inside(norm: str, eps: float, delta: float, passed: bool) -> None:
    clean = np.full((1, 8, 8), 0.7, np.float32)
    records = attacked("01", image="adversarial/000000.npz")
    images = {0: clean, 1: clean + np.float32(delta)}
    verdict = honesty.inside(records, norm, eps, lambda r: images[r.index], lambda k: clean)
    assert verdict.passed is passed
    assert ("sample 1" in verdict.details) is not passed


def test_an_attack_within_a_certified_radius_breaks_no_certificate() -> None:
    """100 draws, alpha 0.01: 37 votes for the certified class have a probability of 0.006 if it has half of them."""
    beyond, whole, broken = (Certificate(1, 0.5, 90, *seen) for seen in ((0.6, None), (0.4, 38), (0.4, 37)))
    records = [replace(record, certificate=beyond) for record in attacked("11")]
    assert honesty.certificates(records, 100, 0.01).passed is None
    records.append(replace(records[0], index=7, certificate=whole))
    assert honesty.certificates(records, 100, 0.01).passed is True
    records.append(replace(records[0], index=9, certificate=broken))
    verdict = honesty.certificates(records, 100, 0.01)
    assert verdict.passed is False and "2 adversarial images" in verdict.details and "sample 9" in verdict.details


def test_an_image_that_is_not_there_is_not_inside() -> None:
    records = attacked("01", image="adversarial/000000.npz")
    assert honesty.inside(records, "Linf", 0.1, lambda r: None, lambda k: np.zeros(1)).passed is False
    assert honesty.inside(attacked("01"), "Linf", 0.1, lambda r: None, lambda k: np.zeros(1)).passed is None


def test_lpips_is_not_measured_on_images_alone() -> None:
    records, clean = attacked("0", image="adversarial/000000.npz"), np.full((3, 8, 8), 0.7, np.float32)
    found = [honesty.inside(records, "LPIPS", 0.05, lambda r, d=d: clean + d, lambda k: clean) for d in (-0.7, 0.4)]
    assert [verdict.passed for verdict in found] == [None, False]
    assert "LPIPS eps 0.05, values 0 to 0: the images alone do not show how far" in found[0].details


# ---- the variants


def config_of(*overrides: str) -> RunSettings:
    raw = read_config("digits.yaml", ["rows=null", "wandb.mode=disabled", *overrides])
    return complete({**raw, "rows": {}, "output": "unused"})


def variants_of(*overrides: str) -> dict[str, dict[str, Any]]:
    config = config_of(*overrides)
    (row,) = config.rows.values()
    attack = build_attack(row.attack)
    assert attack is not None
    return variants(row, attack, config.honesty.factor, (1, 8, 8), row.purifier["name"] != "none")


def test_variants_change_one_thing_each() -> None:
    changed = variants_of("attack.steps=20", "attack.eot=4", "attack.eps=0.1", "honesty.factor=3")
    assert list(changed) == ["more_steps", "more_eot", "larger_eps", "huge_eps", "random_noise", "transfer"]
    numbers = [(changed[name]["steps"], changed[name]["eot"], changed[name]["eps"]) for name in list(changed)[:3]]
    assert numbers == [(60, 4, 0.1), (20, 12, 0.1), (20, 4, pytest.approx(0.3))]
    huge = changed["huge_eps"]
    assert huge["eps"] == pytest.approx(0.8) and huge["steps"] * huge["step_size"] >= 2 * huge["eps"]
    assert (changed["random_noise"]["name"], changed["random_noise"]["eps"]) == ("random_noise", 0.1)
    assert changed["transfer"]["process"] == {"name": "none"}


def test_no_image_leaves_a_variant_early() -> None:
    """The bare classifier is broken sooner than the defense; and what leaving early costs would show."""
    changed = variants_of("attack.skip_broken=true")
    assert len(changed) == 6 and not any(section.get("skip_broken") for section in changed.values())


def test_variants_are_judged_once_and_have_the_rows_defense() -> None:
    config = config_of("honesty.images=2", "protocols.votes=9", "protocols.resubmissions=2", "data.subset=2")
    (row,) = build_rows(config, ImageDataModule("digits", subset=2).prepare())
    assert len(row.protocols) == 3 and len(row.variants) == 6
    for variant in row.variants.values():
        assert [protocol.name for protocol in variant.protocols] == ["one-shot"] and not variant.variants
        assert variant.model.purifier.arguments["t_large"] == row.model.purifier.arguments["t_large"]


def test_variants_that_mean_nothing_are_left_out() -> None:
    assert list(variants_of("purifier.name=none")) == ["more_steps", "larger_eps", "huge_eps", "random_noise"]


def test_a_huge_l2_ball_is_as_deep() -> None:
    """On images of 8 x 8: 64/255 everywhere is 8 * 64/255 long."""
    assert variants_of("attack.norm=L2", "attack.eps=0.2")["huge_eps"]["eps"] == pytest.approx(64 / 255 * 8)
    assert variants_of("attack.norm=L2", "attack.eps=0.5")["huge_eps"]["eps"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("eps", "huge"), [("8/255", 64 / 255), ("2/255", 64 / 255), (0.1, 0.8), (0.4, 1.0), (2.0, 2.0)]
)
def test_huge_is_eight_times_the_eps_and_at_least_64_levels(eps: float | str, huge: float) -> None:
    assert variants_of(f"attack.eps={eps}")["huge_eps"]["eps"] == pytest.approx(huge)


def test_transfer_attacks_the_bare_classifier() -> None:
    config = config_of("honesty.images=4", "purifier={name: uniform, t: 0.1, grid_size: 20}")
    (row,) = build_rows(config, ImageDataModule("digits", subset=4).prepare())
    other = row.variants["transfer"]
    assert other.gradient is not None and other.gradient.process.purifier.network_calls == 0
    assert other.model.purifier.network_calls == row.model.purifier.network_calls == 2


def test_a_purifier_without_derivative_has_its_variants() -> None:
    """Asking nobody needs no gradient, but the row's is what the defense can be seen by."""
    purifier = {"name": "pixeldefend", "shape": [1, 8, 8], "network": network_settings("ToyPixelCNN")}
    config = config_of("honesty.images=4", "attack.gradient=bpda")
    config = complete({**to_dict(config), "purifier": purifier})
    (row,) = build_rows(config, ImageDataModule("digits", subset=4).prepare())
    assert row.variants["random_noise"].conditions.gradients == "BPDA"
    assert row.variants["transfer"].conditions.gradients == "surrogate: name none"
    surrogate = variants_of("attack.process.grid_size=10")["random_noise"]
    assert surrogate["gradient"]["name"] == "surrogate" and surrogate["process"] == {"grid_size": 10}


@pytest.mark.parametrize(
    ("attack", "more", "huge"),
    [
        ({"name": "pgd", "step_size": 0.02}, {"steps": 20}, {"eps": 0.8, "steps": 20, "step_size": 0.2}),
        ({"name": "pgd", "step_size": 0.3}, {"steps": 20}, {"eps": 0.8, "steps": 20, "step_size": 0.3}),
        ({"name": "momentum_pgd"}, {"steps": 20}, {"eps": 0.8, "steps": 20, "step_size": 0.25}),
        ({"name": "selective"}, {"steps": 20}, {"eps": 0.8, "steps": 20, "step_size": 0.25}),
        ({"name": "apgd"}, {"steps": 20}, {"eps": 0.8, "steps": 20}),
        ({"name": "autoattack"}, {"steps": 20}, {"eps": 0.8, "steps": 20}),
        ({"name": "random_noise"}, None, {"eps": 0.8}),
    ],
)
def test_what_every_attack_declares(attack: dict[str, Any], more: dict | None, huge: dict[str, float]) -> None:
    steps = {} if attack["name"] == "random_noise" else {"steps": 10}
    base = {"eps": 0.1, "eot": 3, "recompute": True, **steps, **attack}
    settings = [f"attack.{key}={value}" for key, value in base.items() if key != "name"]
    found = variants_of(f"attack={{name: {attack['name']}}}", *settings)
    plain = complete_attack({**base, "gradient": found["larger_eps"]["gradient"]})
    assert found["larger_eps"] == {**plain, "eps": pytest.approx(0.2)}
    assert found.get("more_steps") == (None if more is None else {**plain, **more})
    assert found["huge_eps"] == {**plain, **{key: pytest.approx(value) for key, value in huge.items()}}


@pytest.mark.parametrize("name", ["stadv", "low_frequency"])
def test_beyond_norm_balls_no_variant_is_a_norm_ball(name: str) -> None:
    found = variants_of(f"attack={{name: {name}, eot: 3}}")
    assert list(found) == ["more_steps", "more_eot", "larger_eps", "transfer"]
    assert (found["more_steps"]["steps"], found["larger_eps"]["eps"]) == (200, 0.1)
    verdicts = honesty.check(attacked("01"), {}, 2, lambda r: None, lambda k: np.zeros(1), norm="StAdv", eps=0.05)
    silent = {verdict.check: verdict.details for verdict in verdicts if verdict.passed is None}
    assert silent["huge eps"] == silent["random noise"] == "StAdv is no norm ball"


class Undeclared(Attack):
    """An attack of one step whose arguments have names of their own, and that declares nothing."""

    steps = 1

    def __init__(self, budget: float = 0.1) -> None:
        self.budget = budget

    def __call__(self, gradient, x, label, sample, observe=None) -> Tensor:
        found = gradient(x, label, sample, 0)
        if observe is not None:
            observe(0, found)
        return (x + self.budget * found.value.sign()).clamp(0.0, 1.0)

    def __str__(self) -> str:
        return "undeclared"


class Declared(Undeclared):
    """The same, with its threat model and how it grows."""

    def __init__(self, budget: float = 0.1) -> None:
        super().__init__(budget)
        self.threat = Threat("Linf", budget)

    def with_eps(self, eps: float) -> dict[str, Any]:
        return {"budget": eps}


@pytest.mark.parametrize("declared", [False, True])
def test_checks_know_an_attack_by_what_it_declares(
    declared: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(ATTACKS.targets, "mine", f"{__name__}:{'Declared' if declared else 'Undeclared'}")
    raw = read_config(
        "digits.yaml",
        ["rows=null", "purifier={name: uniform, t: 0.1, grid_size: 10}", "data.subset=2", "honesty.images=2"],
    )
    raw |= {"attack": {"name": "mine", "eot": 1}, "output": str(tmp_path), "threads": 1, "pictures": 0}
    report = run(complete(raw | {"ensemble": {"size": 1}, "wandb": {"mode": "disabled"}}))
    verdicts = {verdict.check: verdict for verdict in report.checks["uniform"]}
    names = ["loss rises", "more iterations", "more EOT", "larger eps", "huge eps", "random noise", "transfer"]
    assert list(verdicts) == [*names, "gradients", "inside the ball"]
    silent = {name for name, verdict in verdicts.items() if "does not declare" in verdict.details}
    of_the_threat = {"larger eps", "huge eps", "random noise", "inside the ball"}
    assert silent == {"more iterations"} | (set() if declared else of_the_threat)
    assert all(verdicts[name].passed is None for name in silent)
    assert ("does not declare its threat model" in (tmp_path / "results.md").read_text()) is not declared
    assert ("with 2 times the eps" in verdicts["larger eps"].details) is declared


# ---- the whole, with an attack that is whole and with broken ones

REAL_CALL, REAL_GRAFT, REAL_PROJECT = ExactGradient.__call__, ExactGradient.graft, Linf.project


def zero(self: ExactGradient, *args) -> Gradient:
    found = REAL_CALL(self, *args)
    return replace(found, value=torch.zeros_like(found.value))


def wrong_sign(self: ExactGradient, *args) -> Gradient:
    found = REAL_CALL(self, *args)
    return replace(found, value=-found.value)


def wrong_graft(self: ExactGradient, *args) -> Gradient:
    found = REAL_GRAFT(self, *args)
    return replace(found, value=-found.value)


def wrong_ball(self: Linf, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    return REAL_PROJECT(self, x_adv, x, 1.3 * eps)


@pytest.mark.parametrize(
    ("planted", "failing"),
    [
        (None, set()),
        ((ExactGradient, "__call__", zero), {"loss rises", "huge eps", "random noise", "transfer", "gradients"}),
        ((ExactGradient, "__call__", wrong_sign), {"loss rises", "huge eps", "random noise"}),
        ((ExactGradient, "graft", wrong_graft), {"loss rises", "huge eps", "random noise"}),
        ((DeviationGradient, "__call__", wrong_sign), {"loss rises", "huge eps", "random noise"}),
        ((Linf, "project", wrong_ball), {"inside the ball"}),
    ],
    ids=["whole", "zero gradient", "wrong sign", "wrong graft", "wrong deviation", "wrong ball"],
)
def test_broken_attacks_fail_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, planted: tuple | None, failing: set[str]
) -> None:
    if planted:
        target, name, broken = planted
        monkeypatch.setattr(target, name, broken)
    if planted and planted[2] is zero:
        # The undefended classifier's gradients are whole: an attack on it gets through to the defense.
        monkeypatch.setattr(
            ExactGradient,
            "__call__",
            lambda self, *a: (zero if self.process.purifier.network_calls else REAL_CALL)(self, *a),
        )
    overrides = [
        "data.subset=12", "attack.steps=8", "attack.step_size=0.05", "attack.eps=0.2", "attack.eot=2",
        "ensemble.size=1", "chunk_size=24", "honesty=true", "data.batch_size=12",
    ]  # fmt: skip
    if planted and planted[1] == "graft":
        overrides += ["attack.name=selective", "attack.step_size=0.25", "attack.checks=1", "attack.evaluations=2"]
    if planted and planted[0] is DeviationGradient:
        overrides += ["attack.gradient.name=deviation"]
    rows = {"only": {"purifier": {"name": "uniform", "t": 0.05, "grid_size": 20}}}
    assert jobs.evaluate(tmp_path / "run", rows, *overrides) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    found = {v["check"] for v in results["honesty"]["only"] if v["passed"] is False}
    assert found >= failing, results["honesty"]
    assert bool(found) == bool(planted), results["honesty"]
    assert len(results["honesty"]["only"]) == 9
    printed = capsys.readouterr().out
    assert ("THIS REPORT FAILS" in printed) is bool(planted)
    assert (tmp_path / "run" / "results.md").read_text().startswith("**THIS REPORT FAILS") is bool(planted)


def three_times(self: Flow) -> None:
    self.flow.clamp_(-3 * self.eps, 3 * self.eps)


@pytest.mark.parametrize(
    ("planted", "failing"),
    [
        (None, set()),
        ((ExactGradient, "__call__", wrong_sign), {"loss rises"}),
        ((Flow, "constrain", three_times), {"inside the ball"}),
    ],
    ids=["whole", "wrong sign", "long flow"],
)
def test_broken_flows_fail_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: tuple | None, failing: set[str]
) -> None:
    if planted:
        monkeypatch.setattr(*planted)
    overrides = [
        "data.subset=12", "ensemble.size=1", "chunk_size=24", "honesty=true", "data.batch_size=12",
        "attack={name: stadv, eps: 0.2, steps: 6, step_size: 0.1, eot: 1}",
    ]  # fmt: skip
    rows = {"only": {"purifier": {"name": "none"}}}
    assert jobs.evaluate(tmp_path / "run", rows, *overrides) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["rows"][0]["conditions"]["norm"] == "StAdv"
    verdicts = {v["check"]: v["passed"] for v in results["honesty"]["only"]}
    assert {check for check, passed in verdicts.items() if passed is False} == failing, results["honesty"]
    assert verdicts["huge eps"] is verdicts["random noise"] is None
