from types import SimpleNamespace

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hetpure.attacks.base import Attack, Observer
from hetpure.attacks.callback import AdversarialAttack, RecordedGradient
from hetpure.attacks.gradients import ExactGradient, Gradient, GradientSource, GradientWrapper
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.attacks.pgd import PGD
from hetpure.defense.batch import AttackedImages, BatchScores
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.denoisers import Recomputed
from hetpure.noise import attack_draws
from hetpure.purification.none import NoPurifier
from hetpure.purification.uniform import UniformPurifier
from tests.toys import images, tiny_classifier

LABEL, SAMPLE = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([9, 7, 5, 3, 100])


class Keep(lightning.Callback):
    """Remembers batches and outputs."""

    def __init__(self) -> None:
        self.batches: list[dict] = []
        self.outputs: list[BatchScores] = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.batches.append(dict(batch))
        self.outputs.append(outputs)


@pytest.fixture
def defense(denoiser, classifier) -> PurifiedClassifier:
    return PurifiedClassifier(classifier, UniformPurifier(denoiser, 0.2, 10), 10, ensemble_size=2, chunk_size=4)


@pytest.fixture
def gradient(denoiser, classifier) -> ExactGradient:
    surrogate = UniformPurifier(Recomputed(denoiser), 0.1, 20)  # a process of its own
    return ExactGradient(PurifiedClassifier(classifier, surrogate, 10, chunk_size=4), 2, 0)


def test_every_test_batch_is_attacked_through_the_attack_process(defense, gradient) -> None:
    x = images(5)
    items = [{"image": x[i], "label": LABEL[i], "index": SAMPLE[i]} for i in range(5)]
    attack, observed, keep = PGD("Linf", 0.1, 3, 0.04), [], Keep()
    callback = AdversarialAttack(attack, gradient, lambda i, g: observed.append(i), [gradient.process])
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, inference_mode=False, callbacks=[callback, keep],
    )  # fmt: skip
    trainer.test(defense, DataLoader(items, batch_size=2), verbose=False)  # pyright: ignore

    losses: list[Tensor] = []
    expected = attack(gradient, x, LABEL, SAMPLE, lambda i, g: losses.append(g.loss))
    outcomes: list[AttackedImages] = [batch["attacked"] for batch in keep.batches]
    adversarial = torch.cat([outcome.images for outcome in outcomes])
    assert torch.equal(adversarial, expected)
    assert 0.02 < (adversarial - x).abs().max() <= 0.1 + 1e-6
    recorded = torch.tensor([trace.loss for outcome in outcomes for trace in outcome.traces])
    assert torch.equal(recorded, torch.stack(losses, dim=1))
    traces = [trace for outcome in outcomes for trace in outcome.traces]
    sizes = [size for trace in traces for size in trace.gradient_size]
    assert len(sizes) == 15 and min(sizes) > 0
    shares = [share for trace in traces for share in trace.correct]
    assert len(shares) == 15 and set(shares) <= {0.0, 0.5, 1.0}
    assert all(outcome.failures == {} and outcome.chunk_size == 4 for outcome in outcomes)
    for side, images_of_side in (("clean", x), ("adversarial", expected)):
        scores = torch.cat([output.scores[side]["one-shot"][:, 0] for output in keep.outputs])
        assert torch.equal(scores, defense(images_of_side, SAMPLE))
    assert observed == [0, 1, 2] * 3
    assert torch.equal(torch.cat([batch["image"] for batch in keep.batches]), x), "the clean image stays"


def test_the_attack_process_goes_to_the_defenses_device() -> None:
    gradient = ExactGradient(PurifiedClassifier(tiny_classifier(), NoPurifier(), 10), 1, 0)
    AdversarialAttack(PGD(), gradient).on_test_start(None, SimpleNamespace(device=torch.device("meta")))  # pyright: ignore
    assert gradient.process.device.type == "meta"


class Spoiled(GradientWrapper):
    """The gradient of one sample is NaN, or that or the loss is another value."""

    def __init__(self, source: GradientSource, part: str = "value", number: float = torch.nan) -> None:
        super().__init__(source)
        self.part, self.number = part, number

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        gradient = self.source(x, label, sample, iteration, loss)
        getattr(gradient, self.part)[sample == 5] = self.number
        return gradient


class TwoSteps(Attack):
    """Leaves the ball of images, and gives one sample an infinite pixel."""

    steps = 2

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        for iteration in range(2):
            gradient(x, label, sample, iteration)
        moved = 0.5 * x
        moved[sample == 3, 0, 0, 0] = torch.inf
        return moved

    def __str__(self) -> str:
        return "two steps"


def test_where_an_attack_fails_the_clean_image_stands(gradient) -> None:
    """A failed sample's image is the clean one, whatever the attack made of it; the others are the attack's."""
    x = images(5)
    outcome = AdversarialAttack(TwoSteps(), Spoiled(gradient)).attacked(x, LABEL, SAMPLE)
    assert outcome.failures == {
        5: "not finite at attack iteration 0: the gradient, NaN",
        3: "not finite: the adversarial image",
    }
    assert torch.equal(outcome.images[2:4], x[2:4])
    assert torch.equal(outcome.images[[0, 1, 4]], 0.5 * x[[0, 1, 4]])
    assert [len(trace.loss) for trace in outcome.traces] == [2] * 5


@pytest.mark.parametrize(
    ("part", "number", "said"),
    [
        ("value", torch.inf, "the gradient, infinite"),
        ("loss", torch.nan, "the loss, NaN"),
        ("loss", torch.inf, "the loss, infinite"),
    ],
)
def test_a_failure_says_what_was_not_finite(gradient, part: str, number: float, said: str) -> None:
    recorded = RecordedGradient(Spoiled(gradient, part, number))
    recorded(images(5), LABEL, SAMPLE, 2)
    assert recorded.failures == {5: f"not finite at attack iteration 2: {said}"}


def test_a_failure_is_traced_with_the_draws_that_failed(gradient, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        "hetpure.attacks.callback.first_not_finite", lambda *given: asked.append(given) or "logits, NaN"
    )
    x = images(5)
    recorded = RecordedGradient(Spoiled(gradient), gradient.process)
    recorded(x, LABEL, SAMPLE, 2)
    assert recorded.failures == {5: "not finite at attack iteration 2: logits, NaN"}
    ((process, image, draws),) = asked
    expected = attack_draws(0, SAMPLE[2:3], 2, 2)
    assert process is gradient.process and torch.equal(image, x[2:3]) and (draws.seed, draws.process) == (0, "attack")
    assert torch.equal(draws.sample, expected.sample) and torch.equal(draws.draw, expected.draw)
