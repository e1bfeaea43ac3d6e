"""Each objective's loss against its equation in float64, its training, and what it saves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from hetpure.cli import main
from hetpure.data import ImageDataModule
from hetpure.errors import ConfigError
from hetpure.models.checkpoints import CheckpointError
from hetpure.models.classifiers import Classifier
from hetpure.models.diffusers_folder import load_diffusers, load_flow
from hetpure.noise import Draws
from hetpure.schedule import Schedule
from hetpure.training.diffusion import build_unet, load_start, open_start
from hetpure.training.fit import fit
from hetpure.training.objectives.base import Objective
from hetpure.training.objectives.bridge import BridgeObjective
from hetpure.training.objectives.flow import GaussianFlow, PGDFlow
from hetpure.training.objectives.noise import NoiseObjective
from hetpure.training.objectives.registry import OBJECTIVES
from hetpure.training.purification_figures import PurificationFigures
from tests.toys import tiny_classifier
from tests.training.test_diffusion import UNET, new_module, train, weights

ROUNDED = 3e-5
"""Relative: the loss is in float32, the equation in float64."""


class ToyNetwork(nn.Module):
    """F(x; t) = w (1 + t / 1000) tanh(x), in the form of a UNet."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.8))
        self.config = SimpleNamespace(num_class_embeds=None)

    def forward(self, x: Tensor, t: Tensor, class_labels: None = None, return_dict: bool = True) -> tuple[Tensor]:
        return ((self.weight * (1 + t.view(-1, 1, 1, 1) / 1000)).to(x.dtype) * torch.tanh(x),)


def batch(count: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand((count, 1, 8, 8), generator=generator)
    return {"image": image, "label": torch.arange(count) % 10, "index": torch.arange(count)}


def abar(t: Tensor) -> Tensor:
    return torch.tensor([Schedule().alpha_bar(int(i)) for i in t], dtype=torch.float64).view(-1, 1, 1, 1)


def classifier() -> Classifier:
    return tiny_classifier(1)


OBJECTIVE: dict[str, Any] = {
    "noise": NoiseObjective,
    "bridge": lambda: BridgeObjective(classifier(), pgd_steps=1),
    "flow": GaussianFlow,
    "flow_pgd": lambda: PGDFlow(classifier(), pgd_steps=2),
}


def test_all_names_are_here() -> None:
    assert {*OBJECTIVE, "consistency"} == set(OBJECTIVES)  # consistency has a file of its own


def test_noise_is_its_equation() -> None:
    given, network, objective = batch(), ToyNetwork(), NoiseObjective()
    torch.manual_seed(5)
    found = objective.loss(network, given)
    torch.manual_seed(5)
    t, noise = objective.draw_timesteps(4), torch.randn(4, 1, 8, 8).double()
    x = abar(t).sqrt() * (2 * given["image"].double() - 1) + (1 - abar(t)).sqrt() * noise
    expected = (network(x, t)[0] - noise).square().mean()
    assert float(found) == pytest.approx(float(expected), rel=ROUNDED)


def test_bridge_is_its_equation() -> None:
    given, network, judge = batch(), ToyNetwork(), classifier()
    objective = BridgeObjective(judge, eps=8 / 255, step_size=6 / 255, pgd_steps=2)
    torch.manual_seed(5)
    found = objective.loss(network, given)
    torch.manual_seed(5)
    length = int(torch.randint(100, 201, ()))
    t = (torch.rand(4) * length).long()
    eps, offset = torch.randn(4, 1, 8, 8).double(), 2 * torch.rand(4, 1, 8, 8).double() - 1
    image, label, judge = given["image"].double(), given["label"], judge.double()
    a, start = abar(t), Schedule().alpha_bar(length - 1)
    c = start * (1 - a) / ((1 - start) * a.sqrt())

    def x_d(d: Tensor) -> Tensor:
        return a.sqrt() * (2 * image - 1) + (1 - a).sqrt() * eps + c * d

    adversarial = (image + 8 / 255 * offset).clamp(0, 1)
    for _ in range(2):
        adversarial.requires_grad_()
        x = x_d(2 * (adversarial - image))
        x0 = (x - (1 - a).sqrt() * network(x, t)[0]) / a.sqrt()
        loss = nn.functional.cross_entropy(judge((x0 + 1) / 2), label)
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = adversarial.detach() + 6 / 255 * gradient.sign()
        adversarial = (image + (adversarial - image).clamp(-8 / 255, 8 / 255)).clamp(0, 1)
    d = 2 * (adversarial - image)
    expected = (eps + c / (1 - a).sqrt() * d - network(x_d(d), t)[0]).square().mean()
    assert float(found) == pytest.approx(float(expected), rel=ROUNDED)
    assert network.weight.grad is None and not judge.training and network.training


def test_a_bridge_leads_from_the_diffused_adversarial_image_to_the_clean_one() -> None:
    objective, n = BridgeObjective(classifier()), 149
    x0, d, noise = (torch.randn(3, 1, 8, 8) for _ in range(3))
    start, _ = objective.point(x0, torch.full((3,), n), n, noise)(d)
    torch.testing.assert_close(start, objective.diffuse(x0 + d, torch.full((3,), n), noise), rtol=1e-5, atol=1e-5)
    for step in (n, 60, 3, 0):
        t = torch.full((3,), step)
        x, target = objective.point(x0, t, n, noise)(d)
        torch.testing.assert_close(objective.schedule.predict_x0(x, step, target), x0, rtol=1e-4, atol=1e-4)
    last = objective.point(x0, torch.zeros(3).long(), n, noise)
    assert float((last(d)[0] - last(0 * d)[0]).abs().max()) < 0.002 * float(d.abs().max())


@pytest.mark.parametrize("name", ["flow", "flow_pgd"])
def test_flow_is_its_equation(name: str) -> None:
    given, network, objective = batch(), ToyNetwork(), OBJECTIVE[name]()
    torch.manual_seed(5)
    found = objective.loss(network, given)
    torch.manual_seed(5)
    s = 1 - torch.rand(4).double().view(-1, 1, 1, 1)
    image = given["image"].double()
    if name == "flow":
        begin = image + 0.3 * torch.randn(4, 1, 8, 8).double()
    else:
        radius, judge = 0.05 * torch.rand(4, 1, 1, 1).double(), classifier().double()
        begin = (image + radius * (2 * torch.rand(4, 1, 8, 8).double() - 1)).clamp(0, 1)
        for _ in range(2):
            begin.requires_grad_()
            (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(judge(begin), given["label"]), begin)
            moved = begin.detach() + 2 / 255 * gradient.sign() - image
            begin = (image + torch.maximum(torch.minimum(moved, radius), -radius)).clamp(0, 1)
    x0, x1 = 2 * begin - 1, 2 * image - 1
    velocity = -network(s * x1 + (1 - s) * x0, 1000 * (1 - s))[0]
    assert float(found) == pytest.approx(float((velocity - (x1 - x0)).square().mean()), rel=ROUNDED)


@pytest.mark.parametrize("name", OBJECTIVE)
def test_validation_draws_by_key_and_row(name: str) -> None:
    """The same numbers each time, whatever the other images are, and in inference mode."""
    objective, network, given = OBJECTIVE[name](), ToyNetwork(), batch()
    t = torch.tensor([3, 50, 120, 199])
    draws = Draws(0, "validation", given["index"], torch.zeros(4).long())
    first = objective.errors(network, given, t, draws, 0).detach()
    torch.manual_seed(1)
    with torch.inference_mode():
        again = objective.errors(network, {key: value.clone() for key, value in given.items()}, t, draws, 0)
    assert torch.equal(first, again) and not torch.equal(first, objective.errors(network, given, t, draws, 1))
    half = objective.errors(network, {k: v[2:] for k, v in given.items()}, t[2:], draws.rows(slice(2, None)), 0)
    torch.testing.assert_close(half, first[2:])
    assert network.training


@pytest.mark.parametrize("name", ["bridge", "flow", "flow_pgd"])
def test_training_lowers_the_error_and_resumes_to_the_bit(name: str, tmp_path: Path, monkeypatch) -> None:
    options: Any = {"steps": 10, "val_check_interval": 10}
    whole, expected = train(tmp_path / "whole", monkeypatch, objective=OBJECTIVE[name](), **options)
    before, _ = train(tmp_path / "parts", monkeypatch, stop_after=3, objective=OBJECTIVE[name](), **options)
    after, resumed = train(tmp_path / "parts", monkeypatch, objective=OBJECTIVE[name](), **options)
    assert before + after == whole
    state = weights(resumed)
    assert all(torch.equal(value, state[key]) for key, value in weights(expected).items())
    errors = [error_of(module.ema.module, expected.objective) for module in (new_module(), expected)]
    assert errors[1] < 0.9 * errors[0], errors


def error_of(network: nn.Module, objective: Objective) -> float:
    """The mean validation error of some digits, at several labels."""
    data = ImageDataModule("digits", subset=16, batch_size=16).prepare()
    (given,) = data.val_dataloader()
    draws = Draws(0, "validation", given["index"], torch.zeros(16).long())
    t = torch.arange(16) * (objective.labels // 16)
    with torch.no_grad():
        return float(objective.errors(network.eval(), given, t, draws, 0).mean())


def test_a_flow_is_saved_as_one_and_is_no_denoiser(tmp_path: Path) -> None:
    module = new_module(objective=GaussianFlow())
    module.export(tmp_path / "flow")
    new_module().export(tmp_path / "denoiser")
    loaded, x, t = load_flow(str(tmp_path / "flow")), torch.randn(2, 1, 8, 8), torch.tensor([3.5, 700.0])
    torch.testing.assert_close(loaded.eval()(x, t).sample, module(x, t))
    with pytest.raises(CheckpointError, match="FlowMatchEulerDiscreteScheduler is no variance-preserving schedule"):
        load_diffusers(str(tmp_path / "flow"))
    with pytest.raises(CheckpointError, match="_class_name is 'DDPMScheduler'; accepted: a flow"):
        load_flow(str(tmp_path / "denoiser"))
    with pytest.raises(ConfigError, match=r"^init_from: .*no variance-preserving schedule"):
        open_start(str(tmp_path / "flow"))


def test_training_starts_from_the_given_network(tmp_path: Path) -> None:
    new_module().export(tmp_path)
    start = open_start(str(tmp_path))
    torch.manual_seed(1)
    module = new_module(start=start)
    other: UNet2DModel = build_unet({**UNET, "block_out_channels": [8, 16]})
    for network in (module.denoiser, module.ema.module):
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in start.state_dict().items())
    with pytest.raises(ConfigError, match=r"^init_from: its weights do not fit the section denoiser"):
        load_start(other, start)


def test_figures_show_the_objectives_own_purifier(tmp_path: Path) -> None:
    module, data = new_module(objective=GaussianFlow()), ImageDataModule("digits", subset=8, batch_size=16)
    trainer = {"max_steps": 1, "val_check_interval": 1, "accelerator": "cpu", "enable_progress_bar": False}
    figures = PurificationFigures(module, [500], 20, 8, classifier())
    assert [purifier.network_calls for purifier in figures.purifiers.values()] == [10]
    metrics = fit(module, data, tmp_path, trainer=trainer, save_every=10, callbacks=[figures])
    assert {"figures/psnr_ddim_t500", "figures/purified_accuracy_t500", "val/loss_t500-1000"} <= set(metrics)
    with pytest.raises(ConfigError, match=r"^levels is 400; accepted: up to 199, what is trained"):
        PurificationFigures(new_module(objective=BridgeObjective(classifier())), [100, 400], 20, 8)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective={name: flow, sigma: 0}", "objective.sigma is 0.0; accepted: above 0 and below 10"),
        ("objective={name: bridge, classifier: {name: cifar_resnet8}}", "objective.classifier.weights is None"),
        ("objective={name: flow_pgd, classifier: {nam: a}}", "objective.classifier.nam: unknown key"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(override: str, message: str, tmp_path: Path, capsys) -> None:
    arguments = [f"output={tmp_path}", "timesteps.share=0", override]
    code = main(["train-diffusion", "--config", "digits_denoiser.yaml", *arguments])
    error = capsys.readouterr().err.strip()
    assert code == 2 and message in error and error.count("\n") == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [("t_low", 0.0), ("t_low", 0.3), ("t_high", 1.0), ("eps", 0.0), ("step_size", -1.0), ("pgd_steps", 0)],
)
def test_a_bridge_refuses_impossible_values(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{key} is"):
        BridgeObjective(classifier(), **{key: value})
