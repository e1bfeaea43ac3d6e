import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from hetpure.attacks.callback import AdversarialAttack
from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.pgd import PGD
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.denoisers import Recomputed
from hetpure.purification.uniform import UniformPurifier
from tests.toys import images


class Keep(lightning.Callback):
    """Remembers batches and outputs."""

    def __init__(self) -> None:
        self.batches: list[dict] = []
        self.outputs: list[dict] = []

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
    x, label, index = images(5), torch.tensor([1, 2, 3, 4, 5]), torch.tensor([9, 7, 5, 3, 100])
    items = [{"image": x[i], "label": label[i], "index": index[i]} for i in range(5)]
    attack, observed, keep = PGD("Linf", 0.1, 3, 0.04), [], Keep()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, inference_mode=False,
        callbacks=[AdversarialAttack(attack, gradient, lambda i, g: observed.append(i)), keep],
    )  # fmt: skip
    trainer.test(defense, DataLoader(items, batch_size=2), verbose=False)  # pyright: ignore

    losses: list[torch.Tensor] = []
    expected = attack(gradient, x, label, index, lambda i, g: losses.append(g.loss))
    adversarial = torch.cat([batch["adversarial"] for batch in keep.batches])
    assert torch.equal(adversarial, expected)
    assert 0.02 < (adversarial - x).abs().max() <= 0.1 + 1e-6
    found = torch.cat([torch.tensor(batch["attack_loss"]) for batch in keep.batches])
    assert torch.equal(found, torch.stack(losses, dim=1))
    sizes = [size for batch in keep.batches for of in batch["gradient_size"] for size in of]
    assert len(sizes) == 15 and min(sizes) > 0
    assert all(batch["attack_failure"] == {} for batch in keep.batches)
    assert torch.equal(torch.cat([out["clean"] for out in keep.outputs]), defense(x, index))
    assert torch.equal(torch.cat([out["adversarial"] for out in keep.outputs]), defense(expected, index))
    assert observed == [0, 1, 2] * 3
    assert torch.equal(torch.cat([batch["image"] for batch in keep.batches]), x), "the clean image stays"
