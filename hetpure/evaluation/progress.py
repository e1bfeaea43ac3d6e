"""Progress that a person can follow: images, attack iterations, running accuracies, time left."""

import sys
from typing import Any

from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from hetpure.attacks.gradients import Gradient
from hetpure.defense.batch import BatchScores


class EvaluationProgress(Callback):
    """One line: how many images of a row are done, which iteration the attack is at, this process's accuracies so far.

    ``images`` are those that all processes have left to do; ``iterations`` is 0 without an attack.
    """

    def __init__(self, name: str, images: int, iterations: int, visible: bool = True) -> None:
        self.name, self.images, self.iterations = name, images, iterations
        self._bar = tqdm(
            total=images,
            desc=name,
            disable=not visible,
            mininterval=0.2 if sys.stderr.isatty() else 15.0,
            bar_format="{desc}: {percentage:3.0f}%|{bar:20}| {n:.0f}/{total:.0f} images, {remaining} left{postfix}",
        )
        self._done = self._seen = 0
        self._right = {"clean": 0, "adversarial": 0}
        self._accuracies = ""

    def notify(self, text: str) -> None:
        """Prints a line of its own above the bar."""
        tqdm.write(f"{self.name}: {text}", file=sys.stderr)

    def update(self, left: int) -> None:
        """Moves the bar to where only ``left`` images are left to do, by all processes."""
        self._done = self.images - left
        self._move(self._done)

    def close(self) -> None:
        """Ends the line."""
        self._bar.close()

    def on_attack_iteration(self, iteration: int, gradient: Gradient) -> None:
        """An attack's observer: moves the bar to the iteration's share of the batch."""
        if self._bar.disable:
            return
        state = f"iteration {iteration + 1}/{self.iterations} loss {gradient.loss.mean():.3f}"
        self._bar.set_postfix_str(f"{self._accuracies}{state}", refresh=False)
        # The defense's own runs count as one more iteration; a batch that starts again takes the bar back.
        self._move(self._done + len(gradient.loss) * (iteration + 1) / (self.iterations + 1))

    def on_certificate(self, done: float, count: int) -> None:
        """A certifier's observer: how many of a batch's images are certified."""
        if self._bar.disable:
            return
        self._bar.set_postfix_str(f"{self._accuracies}certified {done:.1f}/{count} images", refresh=False)
        self._move(self._done + (count * self.iterations + done) / (self.iterations + 1))

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        assert isinstance(outputs, BatchScores)
        self._done += len(batch["label"])
        if self._bar.disable:
            return
        finite = [i for i, index in enumerate(batch["index"].tolist()) if index not in outputs.failures]
        self._seen += len(finite)
        self._accuracies = ""
        for side, by_protocol in outputs.scores.items():
            predicted = next(iter(by_protocol.values()))[:, 0].argmax(dim=1)
            self._right[side] += int((predicted == batch["label"])[finite].sum())
            name = "standard" if side == "clean" else "robust"
            self._accuracies += f"{name} {self._right[side] / max(self._seen, 1):.1%} "
        self._bar.set_postfix_str(self._accuracies.strip(), refresh=False)
        self._move(self._done)

    def _move(self, position: float) -> None:
        self._bar.update(position - self._bar.n)
