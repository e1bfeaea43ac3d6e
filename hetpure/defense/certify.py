"""Certified accuracy: the majority vote of a smoothing defense over many draws, at each image of a batch."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from hetpure.defense.batch import ATTACKED, CERTIFIED, AttackedImages, BatchScores, CertifiedImages
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.finite import finite_rows, first_not_finite
from hetpure.defense.memory import in_smaller_chunks
from hetpure.noise import Draws, certify_draws
from hetpure.runs.certificates import Certificate, certify

Observer = Callable[[float, int], None]
"""``observe(done, count)``: how many images of a batch of ``count`` are certified, in fractions."""


class Certifier(Callback):
    """Certifies each test batch after its predictions: adds ``CertifiedImages`` to it, under the key ``CERTIFIED``.

    Comes before whatever reads them in the list of callbacks. Each image takes ``n0 + n`` draws; where an adversarial
    image lies within the certified radius, that takes the last n of these draws, too.

    Args:
        n0: draws that choose the class.
        n: draws that bound its probability.
        alpha: probability of a wrong certificate.
        observe: called after each network call.
    """

    def __init__(self, n0: int, n: int, alpha: float, observe: Observer = lambda *_: None) -> None:
        self.n0, self.n, self.alpha, self.observe = n0, n, alpha, observe

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        assert isinstance(pl_module, PurifiedClassifier)
        assert isinstance(outputs, BatchScores)
        compute = partial(self.certified, pl_module, batch, outputs.failures)
        batch[CERTIFIED] = in_smaller_chunks(compute, [pl_module], pl_module.notify)
        outputs.failures.update(batch[CERTIFIED].failures)

    @torch.no_grad()
    def certified(
        self, defense: PurifiedClassifier, batch: dict[str, Any], failed: dict[int, str] | None = None
    ) -> CertifiedImages:
        """Certificates of a batch's images, but for those that have ``failed``, by index.

        The batch has ``image`` (B, C, H, W) in [0, 1] and ``index`` (B,); after an attack ``ATTACKED``, too.
        """
        attacked: AttackedImages | None = batch.get(ATTACKED)
        certificates, failures = dict[int, Certificate](), dict[int, str]()
        for i, index in enumerate(batch["index"].tolist()):
            if index in (failed or {}):
                continue
            draws = certify_draws(defense.seed, batch["index"][i : i + 1], self.n0 + self.n)

            def observe(share: float, i: int = i) -> None:
                self.observe(i + share, len(batch["index"]))

            try:
                clean = batch["image"][i : i + 1]
                adversarial = None if attacked is None else attacked.images[i : i + 1]
                certificates[index] = self._certificate(defense, clean, adversarial, draws, observe)
            except _NotFiniteError as error:
                failures[index] = f"not finite in the certificate: {error}"
        return CertifiedImages(certificates, failures, defense.chunk_size)

    def _certificate(
        self,
        defense: PurifiedClassifier,
        clean: Tensor,
        adversarial: Tensor | None,
        draws: Draws,
        observe: Callable[[float], None],
    ) -> Certificate:
        sigma = defense.purifier.smoothing_sigma
        assert sigma is not None
        votes = predicted_classes(defense, clean, draws, observe)
        counts = [votes[part].bincount(minlength=defense.num_classes).tolist() for part in self._parts]
        found = certify(*counts, alpha=self.alpha, sigma=sigma)
        if adversarial is None:
            return found
        found = replace(found, distance=float((adversarial.double() - clean.double()).norm()))
        if not found.covers_attack:
            return found
        votes = predicted_classes(defense, adversarial, draws.rows(self._parts[1]), observe)
        return replace(found, attacked_votes=int((votes == found.label).sum()))

    @property
    def _parts(self) -> tuple[slice, slice]:
        """The draws that choose the class, and those that bound its probability."""
        return slice(0, self.n0), slice(self.n0, self.n0 + self.n)


def predicted_classes(
    defense: PurifiedClassifier, x: Tensor, draws: Draws, observe: Callable[[float], None] = lambda _: None
) -> Tensor:
    """The class (N,) of each of N purifications of one image x (1, C, H, W).

    Only the classes are kept, so N may be large. ``observe`` gets the share that is done, after each network call.
    """
    classes: list[Tensor] = []
    done = 0
    for chunk in defense.chunks(x, draws):
        purified = defense.purifier.purify(chunk.x, chunk.draws, *chunk.prepared)
        logits = defense.classify(purified, chunk.draws)[: chunk.real]
        if not (finite := finite_rows(logits)).all():
            own = chunk.draws.rows(slice(0, chunk.real)).rows(~finite).rows(slice(0, 1))
            raise _NotFiniteError(first_not_finite(defense, x, own) or "logits")
        classes.append(logits.argmax(dim=1).cpu())
        done += chunk.real
        observe(done / len(draws))
    return torch.cat(classes)


class _NotFiniteError(Exception):
    """Where values stopped being finite, in words."""
