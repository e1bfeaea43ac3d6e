"""Progress that a person can follow: images, attack iterations, running accuracies, time left."""

import sys
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from hetpure.attacks.gradients import Gradient
from hetpure.evaluation.evaluator import Evaluator


class EvaluationProgress(Callback):
    """One line: how many of this process's images are done, which iteration the attack is at, accuracies so far.

    Args:
        name: of the row.
        images: how many this process has to do.
        iterations: attack iterations per batch, 0 without an attack.
    """

    def __init__(self, name: str, images: int, iterations: int) -> None:
        self.name, self.images, self.iterations = name, images, iterations
        self._bar: tqdm | None = None
        self._batch = self._done = 0
        self._accuracies = ""

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Opens the bar, on the first process."""
        share = f" (process 1 of {trainer.world_size})" if trainer.world_size > 1 else ""
        self._bar = tqdm(
            total=self.images,
            desc=self.name + share,
            disable=not trainer.is_global_zero,
            mininterval=0.2 if sys.stderr.isatty() else 15.0,
            bar_format="{desc}: {percentage:3.0f}%|{bar:20}| {n:.0f}/{total:.0f} images, {remaining} left{postfix}",
        )

    def say(self, text: str) -> None:
        """A line of its own above the bar."""
        tqdm.write(f"{self.name}: {text}", file=sys.stderr)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Notes the batch's size."""
        self._batch = len(batch["label"])

    def on_attack_iteration(self, iteration: int, found: Gradient) -> None:
        """An attack's observer: moves the bar to the iteration's share of the batch."""
        if self._bar is None or self._bar.disable:
            return
        self._bar.set_postfix_str(
            f"{self._accuracies}iteration {iteration + 1}/{self.iterations} loss {found.loss.mean():.3f}", refresh=False
        )
        # The defense's own runs count as one more iteration; a batch that starts again takes the bar back.
        self._move(self._done + self._batch * (iteration + 1) / (self.iterations + 1))

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Moves the bar to the batch's end and shows the accuracies so far."""
        assert isinstance(pl_module, Evaluator)
        self._done += self._batch
        if self._bar is None or self._bar.disable:
            return
        seen = max(pl_module.seen, 1)
        self._accuracies = f"standard {pl_module.right['clean'] / seen:.1%} "
        if "adversarial" in outputs:
            self._accuracies += f"robust {pl_module.right['adversarial'] / seen:.1%} "
        self._bar.set_postfix_str(self._accuracies.strip(), refresh=False)
        self._move(self._done)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leaves the terminal clean."""
        self.on_test_end(trainer, pl_module)

    def _move(self, to: float) -> None:
        assert self._bar is not None
        self._bar.update(to - self._bar.n)
