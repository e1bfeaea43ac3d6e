"""An attack as a Lightning callback: every test batch is attacked before the defense sees it."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from hetpure.attacks.base import Attack, Observer
from hetpure.attacks.gradients import Evaluation, Gradient, GradientSource, GradientWrapper, Select
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.defense.batch import ATTACKED, AttackedImages, AttackTrace
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.finite import finite_rows, first_not_finite
from hetpure.defense.memory import in_smaller_chunks
from hetpure.models.precision import tf32_if
from hetpure.noise import attack_draws


class RecordedGradient(GradientWrapper):
    """The same gradients, remembering each sample's trace and what first was not finite, by the sample's index.

    ``process`` is what the gradients go through, to say where values stopped being finite; None says less.
    """

    def __init__(
        self, source: GradientSource, process: PurifiedClassifier | None = None, checkpoints: Collection[int] = ()
    ) -> None:
        super().__init__(source)
        self.process, self.checkpoints = process, checkpoints
        # (C, H, W) by the sample's index, after so many iterations, of those of ``checkpoints``
        self.images: defaultdict[int, dict[int, Tensor]] = defaultdict(dict)
        self.traces: defaultdict[int, AttackTrace] = defaultdict(AttackTrace)
        self.failures: dict[int, str] = {}

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        return self._recorded(self.source(x, label, sample, iteration, loss), x, sample, iteration)

    def graft(
        self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, select: Select, loss: Loss = LOSSES["ce"]
    ) -> Gradient:
        return self._recorded(self.source.graft(x, label, sample, iteration, select, loss), x, sample, iteration)

    def evaluate(self, x: Tensor, label: Tensor, sample: Tensor, count: int, first: int = 0) -> Evaluation:
        found = self.source.evaluate(x, label, sample, count, first)
        for index in sample.tolist():
            self.traces[index].trials += found.purifications
        return found

    def _recorded(self, gradient: Gradient, x: Tensor, sample: Tensor, iteration: int) -> Gradient:
        if iteration in self.checkpoints:
            self.images[iteration].update(zip(sample.tolist(), x, strict=True))
        # The largest entry, not the length: squares of a confident classifier's gradients underflow.
        size = gradient.value.abs().flatten(1).amax(dim=1)
        finite = (finite_rows(gradient.value) & gradient.loss.isfinite()).tolist()
        columns = (sample.tolist(), gradient.loss.tolist(), size.tolist(), gradient.correct.tolist())
        for i, (index, value, largest, correct) in enumerate(zip(*columns, strict=True)):
            trace = self.traces[index]
            trace.loss.append(value)
            trace.gradient_size.append(largest)
            trace.correct.append(round(correct, 4))
            if not finite[i] and index not in self.failures:
                self.failures[index] = self._explain(x[i : i + 1], gradient, i, sample[i : i + 1], iteration)
        return gradient

    def _explain(self, x: Tensor, gradient: Gradient, i: int, sample: Tensor, iteration: int) -> str:
        draws = attack_draws(self.seed, sample, iteration, self.eot)
        where = None if self.process is None else first_not_finite(self.process, x, draws)
        if where is None:
            part = "the gradient" if math.isfinite(float(gradient.loss[i])) else "the loss"
            where = f"{part}, {'NaN' if gradient.value[i].isnan().any() or gradient.loss[i].isnan() else 'infinite'}"
        return f"not finite at attack iteration {iteration}: {where}"


class AdversarialAttack(Callback):
    """Attacks each test batch: adds ``AttackedImages`` to it, under the key ``ATTACKED``.

    ``gradient`` goes through the attack process, which is moved to the module's device. ``processes`` is that process,
    whose chunks are halved where memory runs out; ``notify`` gets a line of text each time. After so many iterations as
    ``checkpoints`` says the images are kept, too. ``tf32`` allows it for the attack alone.
    """

    def __init__(
        self,
        attack: Attack,
        gradient: GradientSource,
        observe: Observer | None = None,
        processes: Sequence[PurifiedClassifier] = (),
        notify: Callable[[str], None] = print,
        checkpoints: Collection[int] = (),
        tf32: bool = False,
    ) -> None:
        self.checkpoints, self.tf32 = checkpoints, tf32
        self.attack, self.gradient, self.observe = attack, gradient, observe
        self.processes, self.notify = processes, notify

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.gradient.to(pl_module.device)

    def on_test_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        batch[ATTACKED] = self.attacked(batch["image"], batch["label"], batch["index"])

    def attacked(self, x: Tensor, label: Tensor, sample: Tensor) -> AttackedImages:
        """The attack's outcome on images x (B, C, H, W) in [0, 1] with their labels and dataset indices (B,)."""

        def attempt() -> tuple[Tensor, RecordedGradient]:
            gradient = RecordedGradient(self.gradient, next(iter(self.processes), None), self.checkpoints)
            return self.attack(gradient, x, label, sample, self.observe), gradient

        with tf32_if(self.tf32):
            x_adv, recorded = in_smaller_chunks(attempt, self.processes, self.notify)
        failures, indices = dict(recorded.failures), sample.tolist()
        failures |= {index: reason for index in indices if (reason := self.attack.failure(index)) is not None}
        for index, finite in zip(indices, finite_rows(x_adv).tolist(), strict=True):
            if not finite:
                failures.setdefault(index, "not finite: the adversarial image")
        failed = torch.tensor([index in failures for index in indices], device=x.device).view(-1, *[1] * (x.ndim - 1))
        checkpoints = {}
        for number in self.checkpoints if self.attack.has_prefixes else ():
            of = recorded.images[number]  # an image that left the attack before keeps its last one
            image = torch.stack([of.get(index, last) for index, last in zip(indices, x_adv, strict=True)])
            checkpoints[number] = torch.where(failed, x, image)
        traces = [recorded.traces[index] for index in indices]
        if self.attack.skip_broken:
            for trace in traces:
                # Who is found broken at the last gradient has saved none.
                trace.left_after = len(trace.loss) - 1 if len(trace.loss) < self.attack.steps else None
        return AttackedImages(
            images=torch.where(failed, x, x_adv),
            checkpoints=checkpoints,
            traces=traces,
            failures=failures,
            chunk_size=min((process.chunk_size for process in self.processes), default=0),
        )
