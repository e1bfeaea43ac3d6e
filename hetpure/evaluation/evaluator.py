"""One test batch: the purifications that the protocols need, of clean and adversarial images."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning
from torch import Tensor

from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.finite import finite_rows, first_not_finite
from hetpure.defense.memory import in_smaller_chunks
from hetpure.evaluation.protocols import Protocol, draws_needed
from hetpure.noise import defense_draws


class Evaluator(lightning.LightningModule):
    """Scores of a defense under several protocols, of batches that an attack callback may have attacked before.

    Args:
        model: the defense process.
        protocols: what to judge by, one-shot first.
        say: told when chunks are halved for want of memory.

    Attributes:
        right: how many samples of this process were right under the first protocol, clean and adversarial.
        seen: how many there were.
    """

    def __init__(
        self, model: PurifiedClassifier, protocols: Sequence[Protocol], say: Callable[[str], None] = print
    ) -> None:
        super().__init__()
        self.model, self.protocols, self.say = model, tuple(protocols), say
        self.right = {"clean": 0, "adversarial": 0}
        self.seen = 0

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Judges a batch.

        Args:
            batch: ``image`` (B, C, H, W) in [0, 1], ``label`` and ``index`` (B,), perhaps ``adversarial`` like image.
            batch_idx: Lightning's.

        Returns:
            ``clean`` and, perhaps, ``adversarial``: class scores (B, evaluations, K) by protocol; ``failure``: index to
            reason, of samples with values that were not finite; ``chunk``: rows in a network call.
        """
        scores, failure = in_smaller_chunks(lambda: self._judged(batch), [self.model], self.say)
        fine = [i for i, k in enumerate(batch["index"].tolist()) if k not in failure]
        self.seen += len(fine)
        for side, found in scores.items():
            predicted = found[self.protocols[0].name][:, 0].argmax(dim=1)
            self.right[side] += int((predicted == batch["label"])[fine].sum())
        return {**scores, "failure": failure, "chunk": self.model.chunk_size}

    def _judged(self, batch: dict[str, Any]) -> tuple[dict[str, dict[str, Tensor]], dict[int, str]]:
        count = draws_needed(self.protocols)
        draws = defense_draws(self.model.seed, batch["index"], count)
        scores, failure = {}, dict(batch.get("attack_failure", {}))
        for side, images in (("clean", batch["image"]), ("adversarial", batch.get("adversarial"))):
            if images is None:
                continue
            logits = self.model.purified_logits(images, draws).unflatten(0, (len(images), count))
            for i, fine in enumerate(finite_rows(logits).tolist()):
                index = int(batch["index"][i])
                if not fine and index not in failure:
                    of = draws.rows(slice(i * count, (i + 1) * count))
                    where = first_not_finite(self.model, images[i : i + 1], of) or "logits"
                    failure[index] = f"not finite in the defense, {side} image: {where}"
            scores[side] = {protocol.name: protocol.scores(logits) for protocol in self.protocols}
        return scores, failure
