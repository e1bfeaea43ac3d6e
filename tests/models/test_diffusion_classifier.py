"""The diffusion classifier: the released code's sum, its noise, its gradient, and a toy that classifies."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hetpure
from hetpure.attacks.gradients import ExactGradient
from hetpure.config import read_config
from hetpure.data import ImageDataModule
from hetpure.data.items import item
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.hooks import after_calls, networks
from hetpure.errors import ConfigError
from hetpure.evaluation.build import build_rows
from hetpure.evaluation.config import complete
from hetpure.models.classifiers import build_classifier
from hetpure.models.denoisers import build_denoiser
from hetpure.models.diffusers_folder import save_diffusers
from hetpure.models.diffusion_classifier import DiffusionClassifier
from hetpure.noise import attack_draws, defense_draws
from hetpure.planning.counting import count_pieces
from hetpure.purification.contrastive import ContrastivePurifier
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.purification.likelihood import LikelihoodPurifier
from hetpure.purification.none import NoPurifier
from hetpure.runs.read import read_run
from hetpure.schedule import Schedule
from hetpure.training.objectives.noise import NoiseObjective
from tests.toys import ToyDenoiser, abar, images, rows, tiny_classifier, tiny_unet

CLASSES = 3


def toy(dtype: torch.dtype = torch.float32, **changes: Any) -> DiffusionClassifier:
    unet = tiny_unet(classes=CLASSES + 1).to(dtype)
    settings = {"num_classes": CLASSES, "levels": 4, **changes}
    return DiffusionClassifier(unet, **settings).eval().requires_grad_(False).to(dtype)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    save_diffusers(tiny_unet(classes=11), Schedule(), tmp_path / "denoiser")
    return str(tmp_path / "denoiser")


def test_logits_are_the_released_codes_sum() -> None:
    """Its weights and its squared error of D, on a float64 network; its density is 1.44 times ours."""
    classifier, x, draws = toy(torch.float64), images(2, dtype=torch.float64), rows(2)
    expected, P_std = torch.zeros(2, CLASSES, dtype=torch.float64), 1.2
    for i in range(4):
        middle, z = (i + 0.5) / 4 * 3.0, 2.0 * x - 1.0
        t = min(range(1000), key=lambda t: abs(math.sqrt(1.0 / abar(t) - 1.0) - middle))
        sigma, noise = math.sqrt(1.0 / abar(t) - 1.0), draws.normal_like(z, "classify", i)
        p = 1 / (sigma * P_std * math.sqrt(2 * math.pi)) * math.exp(-((math.log(sigma) + 1.2) ** 2) / 2 * P_std**2)
        weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2 * p * 3.0 / 4
        for y in range(CLASSES):
            noised = z + sigma * noise
            label = torch.full((2,), y)
            eps = classifier.network(math.sqrt(abar(t)) * noised, torch.full((2,), t), class_labels=label).sample
            expected[:, y] -= 1.44 * weight * ((noised - sigma * eps - z) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(classifier(x, draws), expected, rtol=1e-9, atol=0.0)


def test_the_gradient_is_exact() -> None:
    """Against central differences in float64; relative error below 1e-6."""
    classifier, x, draws = toy(torch.float64), images(2, dtype=torch.float64), rows(2)
    direction, weight = (
        images(2, dtype=torch.float64, seed=5) - 0.5,
        images(2, size=8, dtype=torch.float64)[:, 0, 0, :3],
    )

    def value(x: Tensor) -> Tensor:
        return (classifier(x, draws) * weight).sum()

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    slope = (value(x + 1e-5 * direction) - value(x - 1e-5 * direction)) / 2e-5
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-6)
    with torch.no_grad():
        without = classifier(x, draws)
    assert torch.equal(classifier(leaf, draws).detach(), without)


def test_draws_are_keyed() -> None:
    """Equal for an image in any chunk of a size, and different for each draw, and for attack and defense."""
    classifier, x = toy(), images(4)
    alone = classifier(x[[1, 0, 0, 0]], rows(4).rows(torch.tensor([1, 0, 0, 0])))
    together = classifier(x, rows(4))
    assert torch.equal(alone[0], together[1])
    one, sample = x[:1], torch.tensor([0])
    draws = [defense_draws(0, sample, 1), defense_draws(0, sample, 2).rows(slice(1, 2)), attack_draws(0, sample, 0, 1)]
    logits = [classifier(one, each) for each in draws]
    assert not any(torch.equal(a, b) for a, b in zip(logits, logits[1:] + logits[:1], strict=True))
    assert torch.equal(classifier(one), classifier(one))
    # Classes share their noise: with equal embeddings they have equal logits.
    classifier.network.class_embedding.weight.data[:] = 0.1  # pyright: ignore
    equal = classifier(x, rows(4))
    assert torch.equal(equal[:, 0], equal[:, 1])


def test_a_defense_without_a_purifier_is_stochastic() -> None:
    classifier, x = toy(), images(2)
    defense = PurifiedClassifier(classifier, NoPurifier(), CLASSES, ensemble_size=3, chunk_size=4)
    assert defense.stochastic and defense.ensemble_size == 3 and defense.network_calls == 4 * CLASSES
    draws = defense_draws(0, torch.arange(2), 3)
    repeated = torch.cat([classifier(x.repeat_interleave(3, 0)[part], draws.rows(part)) for part in (slice(0, 4),)])
    assert torch.equal(defense.purified_logits(x, draws)[:4], repeated)
    assert not PurifiedClassifier(tiny_classifier(), NoPurifier(), 10).stochastic
    gradient = ExactGradient(defense, eot=2, seed=0)
    label, sample = torch.zeros(2, dtype=torch.long), torch.arange(2)
    first, again, other = (gradient(x, label, sample, iteration).value for iteration in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_purifiers_that_look_into_the_classifier_refuse_it() -> None:
    """Its gradient would be differentiated without an error, and be wrong; its network takes more than an image."""
    with pytest.raises(
        ConfigError, match=r"name is 'contrastive'; accepted: .* which a diffusion classifier cannot be"
    ):
        ContrastivePurifier(ToyDenoiser(), toy())
    for blocks in (None, ["mid_block"]):
        with pytest.raises(ConfigError, match="blocks: a diffusion classifier has none"):
            HeterogeneousPurifier(ToyDenoiser(), toy(), blocks=blocks)


def test_an_evaluation_in_python_keeps_its_settings_apart(tmp_path: Path) -> None:
    """The same weights with other levels are another classifier."""
    defenses = {
        f"levels={levels}": PurifiedClassifier(toy(levels=levels), NoPurifier(), CLASSES, 1, chunk_size=2)
        for levels in (1, 2)
    }
    hetpure.evaluate(defenses, None, (images(2), torch.tensor([0, 1])), tmp_path / "run", pictures=0)
    few, more = ([r.clean_scores for r in m.store.read()] for m in read_run(tmp_path / "run").methods)
    assert few != more
    defenses["levels=2"] = PurifiedClassifier(toy(levels=3), NoPurifier(), CLASSES, 1, chunk_size=2)
    with pytest.raises(ConfigError, match=r"classifier\.arguments\.levels was 2, is 3"):
        hetpure.evaluate(defenses, None, (images(2), torch.tensor([0, 1])), tmp_path / "run", pictures=0)


def test_each_call_of_its_network_is_a_sign_of_life() -> None:
    defense, calls = PurifiedClassifier(toy(levels=2), NoPurifier(), CLASSES, 1, chunk_size=2), []
    with after_calls(networks([defense]), lambda module, *_: calls.append(module)):
        defense(images(1))
    assert len(calls) == 2 * CLASSES + 1


def test_rdc_from_one_folder(folder: str) -> None:
    """A config's row: the null class purifies, the classes classify; ``plan`` counts the calls of both."""
    section = {"name": "diffusion", "weights": folder, "arguments": {"num_classes": 10, "levels": 2}}
    raw = read_config("digits.yaml", ["rows=null", "data.subset=1", "attack.steps=2"]) | {
        "classifier": section,
        "denoiser": {"path": folder, "format": "diffusers_null_class"},
        "purifier": {"name": "likelihood", "ascent_steps": 3},
    }
    data = ImageDataModule("digits", subset=1).prepare()
    (row,) = build_rows(complete(raw), data)
    assert row.conditions.network_calls == 3 + 20 and row.conditions.gradient_calls == 4 * 23
    assert isinstance(row.model.purifier, LikelihoodPurifier) and count_pieces(row, data.image_shape, 1, 1)
    x, t = images(2), torch.full((2,), 7)
    network, null = tiny_unet(classes=11).eval(), torch.full((2,), 10)
    expected = network(x, t, class_labels=null).sample
    torch.testing.assert_close(build_denoiser(folder, "diffusers_null_class")(x, 7), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match=r"num_class_embeds is 11; accepted: null, or in eval"):
        build_denoiser(folder)
    save_diffusers(tiny_unet(), Schedule(), folder)
    with pytest.raises(ConfigError, match=r"classifier\.weights: .*num_class_embeds is None; accepted: the number of"):
        build_classifier(**section)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("arguments.num_classes", {"arguments": {"num_classes": 9}}),
        ("arguments.num_classes", {"arguments": {}}),
        ("arguments.levels", {"arguments": {"num_classes": 10, "levels": 0}}),
        ("arguments.sigma_max", {"arguments": {"num_classes": 10, "sigma_max": 1000.0}}),
        ("arguments.log_sigma_std", {"arguments": {"num_classes": 10, "log_sigma_std": 0.0}}),
        ("arguments.steps", {"arguments": {"num_classes": 10, "steps": 3}}),
        ("weights", {"weights": None}),
        ("weights", {"weights": "random"}),
        ("weights", {"weights": "no/such/folder"}),
        ("mean", {"mean": [0.5]}),
        ("pretrained", {"pretrained": True}),
    ],
)
def test_what_is_refused(key: str, change: dict, folder: str) -> None:
    section: dict[str, Any] = {"name": "diffusion", "weights": folder, "arguments": {"num_classes": 10}}
    with pytest.raises(ConfigError) as caught:
        build_classifier(**{**section, **change})
    message = str(caught.value)
    assert message.startswith(f"classifier.{key}") and "\n" not in message and len(message) < 400


@pytest.mark.slow
def test_a_toy_classifies_digits() -> None:
    """After 100 training steps: chance is 10 %, and the bound 40 %."""
    data = ImageDataModule("digits", subset=64, batch_size=64).prepare()
    test, unet, objective = data.test_source, tiny_unet(classes=11), NoiseObjective()
    optimizer = torch.optim.Adam(unet.parameters(), 5e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(data.train_dataloader())), 100):
            optimizer.zero_grad()
            objective.loss(unet, batch).backward()
            optimizer.step()
    classifier = DiffusionClassifier(unet.eval().requires_grad_(False), 10, levels=8)
    x = torch.stack([torch.as_tensor(item(test, index)["image"]) for index in data.indices])
    labels = torch.tensor([test.labels[index] for index in data.indices])
    with torch.no_grad():
        right = classifier(x, defense_draws(0, torch.tensor(data.indices), 1)).argmax(1) == labels
    assert float(right.float().mean()) > 0.4
