"""An attack as a Lightning callback: every test batch is attacked before the defense sees it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from hetpure.attacks.base import Attack, Observer
from hetpure.attacks.gradients import Evaluation, Gradient, GradientSource
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.finite import finite_rows, first_not_finite
from hetpure.defense.memory import in_smaller_chunks
from hetpure.noise import attack_draws


class WatchedGradient:
    """The same gradients, remembering each sample's loss and gradient size, and the first that is not finite.

    Args:
        source: the gradients.
        process: what they go through, to say where values stopped being finite; None says less.

    Attributes:
        loss: of each sample, by its index: the mean loss at every gradient asked for.
        size: likewise the gradient's largest absolute value.
        correct: likewise the share of the EOT draws that were still classified right.
        failure: what was not finite, of the samples that had it.
    """

    def __init__(self, source: GradientSource, process: PurifiedClassifier | None = None) -> None:
        self.source, self.process = source, process
        self.loss: dict[int, list[float]] = {}
        self.size: dict[int, list[float]] = {}
        self.correct: dict[int, list[float]] = {}
        self.failure: dict[int, str] = {}

    def to(self, device: torch.device) -> None:
        self.source.to(device)

    @property
    def seed(self) -> int:
        return self.source.seed

    @property
    def eot(self) -> int:
        return self.source.eot

    @property
    def stochastic(self) -> bool:
        return self.source.stochastic

    def evaluate(self, x: Tensor, label: Tensor, sample: Tensor, count: int) -> Evaluation:
        return self.source.evaluate(x, label, sample, count)

    def scores(self, x: Tensor, sample: Tensor, count: int) -> Tensor:
        return self.source.scores(x, sample, count)

    def logits(self, x: Tensor, sample: Tensor, call: int) -> Tensor:
        return self.source.logits(x, sample, call)

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        found = self.source(x, label, sample, iteration, loss)
        # The largest entry, not the length: squares of a confident classifier's gradients underflow.
        size = found.value.abs().flatten(1).amax(dim=1)
        fine = (finite_rows(found.value) & found.loss.isfinite()).tolist()
        for i, (index, value, largest, right) in enumerate(
            zip(sample.tolist(), found.loss.tolist(), size.tolist(), found.correct.tolist(), strict=True)
        ):
            self.loss.setdefault(index, []).append(value)
            self.size.setdefault(index, []).append(largest)
            self.correct.setdefault(index, []).append(round(right, 4))
            if not fine[i] and index not in self.failure:
                self.failure[index] = self._explain(x[i : i + 1], found, i, sample[i : i + 1], iteration)
        return found

    def _explain(self, x: Tensor, found: Gradient, i: int, sample: Tensor, iteration: int) -> str:
        where = None
        if self.process is not None:
            draws = attack_draws(self.seed, sample, iteration, self.eot)
            where = first_not_finite(self.process, x, draws)
        if where is None:
            part = "the gradient" if math.isfinite(float(found.loss[i])) else "the loss"
            where = f"{part}, {'NaN' if found.value[i].isnan().any() or found.loss[i].isnan() else 'infinite'}"
        return f"not finite at attack iteration {iteration}: {where}"


class AdversarialAttack(Callback):
    """Attacks each test batch, in place.

    Adds ``adversarial`` (like ``image``; the image itself where the attack failed), ``attack_loss``,
    ``gradient_size`` and ``attack_correct`` (a list for each sample, over the gradients that the attack asked for),
    ``attack_failure`` (index to reason, of samples with values that were not finite) and ``attack_chunk`` (rows in a
    network call).

    Args:
        attack: the attack.
        gradient: gradients through the attack process, which is moved to the module's device.
        observe: called after every iteration; see ``Attack``.
        processes: the attack process, whose chunks are halved where memory runs out.
        say: told of that.
    """

    def __init__(
        self,
        attack: Attack,
        gradient: GradientSource,
        observe: Observer | None = None,
        processes: Sequence[PurifiedClassifier] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        self.attack, self.gradient, self.observe = attack, gradient, observe
        self.processes, self.say = processes, say

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Brings the attack process to the device."""
        self.gradient.to(pl_module.device)

    def on_test_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attacks the batch in place."""
        x, index = batch["image"], batch["index"]

        def attacked() -> tuple[Tensor, WatchedGradient]:
            watched = WatchedGradient(self.gradient, next(iter(self.processes), None))
            return self.attack(watched, x, batch["label"], index, self.observe), watched

        x_adv, seen = in_smaller_chunks(attacked, self.processes, self.say) if self.processes else attacked()
        failure = dict(seen.failure)
        for i, fine in enumerate(finite_rows(x_adv).tolist()):
            if not fine:
                failure.setdefault(int(index[i]), "not finite: the adversarial image")
        failed = torch.tensor([k in failure for k in index.tolist()], device=x.device).view(-1, *[1] * (x.ndim - 1))
        batch["adversarial"] = torch.where(failed, x, x_adv)
        batch["attack_loss"] = [seen.loss.get(k, []) for k in index.tolist()]
        batch["gradient_size"] = [seen.size.get(k, []) for k in index.tolist()]
        batch["attack_correct"] = [seen.correct.get(k, []) for k in index.tolist()]
        batch["attack_failure"] = failure
        batch["attack_chunk"] = min((process.chunk_size for process in self.processes), default=0)
