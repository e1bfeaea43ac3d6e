"""AutoAttack (Croce & Hein 2020), an ensemble of attacks: for purified classifiers, and as published.

``AutoAttack`` is this project's version: its APGD uses EOT gradients, and results are chosen by repeated evaluation.
FAB and Square, the two members of ``standard`` for static defenses, are the published package's own.
``ReferenceAutoAttack`` is that package as it is.
"""

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from hetpure.attacks.apgd import APGD
from hetpure.attacks.base import BallAttack, IterativeAttack, Observer
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.losses import LOSSES
from hetpure.attacks.norms import NORMS, NormName
from hetpure.attacks.search import Search
from hetpure.errors import AbsentError, require

Version = Literal["standard", "rand"]

FIRST_CALL = 2**20
"""The published code's calls are numbered from here on: the numbers of iterations would repeat their draws."""


class AutoAttack(IterativeAttack):
    """AutoAttack for purified classifiers.

    ``rand``, for randomised defenses: APGD on cross-entropy, then on DLR, both with EOT. ``standard``, for static ones:
    APGD on cross-entropy, targeted APGD-DLR, targeted FAB, Square with 5,000 queries.

    The original drops a sample the first time that one noisy evaluation misclassifies it: chance counts as success, and
    the defense often gets the resulting image right the next time. Here every member's candidates are tried out
    ``evaluations`` times with draws of their own, the candidate with the smallest share of right answers is kept, and
    later members leave out only samples that all evaluations got wrong; see ``Search``.

    FAB and Square come from the optional package ``pyautoattack`` and see one image at a time, under the image's own
    seed: the package draws random numbers in the order of calls, which would depend on the batch otherwise.

    Args:
        norm, eps, evaluations: see ``IterativeAttack``.
        version: ``rand`` or ``standard``.
        steps: iterations of an APGD run, and of FAB.
        targets: wrong classes that APGD-T and FAB-T aim at, at most.
        queries: of Square.
    """

    def __init__(
        self,
        norm: NormName = "Linf",
        eps: float = 8 / 255,
        version: Version = "rand",
        steps: int = 100,
        targets: int = 9,
        queries: int = 5000,
        evaluations: int = 20,
    ) -> None:
        super().__init__(norm, eps, steps, evaluations)
        require(queries >= 1, "queries", queries, "1 or more")
        self.version, self.queries, self.targets = version, queries, targets
        second = APGD(norm, eps, steps, "dlr" if version == "rand" else "dlr_targeted", 1, targets)
        self.members = (APGD(norm, eps, steps, "ce"), second)
        self.classes = second.classes
        self.steps = sum(member.steps for member in self.members)
        self.sees_loss_alone = version == "rand"  # FAB and Square see logits
        if version == "standard":
            published("fab_pt", "version")
            self.steps += 2

    def attack(self, search: Search) -> Tensor:
        search.offer(search.all, search.x)
        for member in self.members:
            member.pursue(search)
        if self.version == "standard":
            fab = {"n_restarts": 1, "n_iter": self.run_length, "targeted": True, "n_target_classes": self.targets}
            square = {"n_queries": self.queries, "p_init": 0.8, "resc_schedule": False}
            for module, name, options in (("fab_pt", "FABAttack_PT", fab), ("square", "SquareAttack", square)):
                build = functools.partial(getattr(published(module, "version"), name), norm=self.norm, eps=self.eps)
                self._pursue(search, functools.partial(build, **options))
        return search.image

    def _pursue(self, search: Search, build: Callable[..., Any]) -> None:
        """A published attack on the samples that the search has open, one image at a time."""
        rows, images = search.open(), []
        for row in rows[:, None]:
            x, sample = search.x[row], search.sample[row]
            with torch.random.fork_rng(), torch.no_grad():
                model, seed = Model(search.gradient, sample), seed_of(search.gradient, int(sample))
                images.append(build(model, seed=seed, device=x.device).perturb(x, search.label[row]))
        if images:
            search.offer(rows, NORMS[self.norm].project(torch.cat(images), search.x[rows], self.eps))
        search.skip(1)

    def __str__(self) -> str:
        return self.title(f"AutoAttack {self.version}", f"{self.run_length} steps")


class ReferenceAutoAttack(BallAttack):
    """The published AutoAttack as it is, from the optional package ``pyautoattack``.

    One noisy evaluation decides which samples are dropped, so on randomised defenses it serves for comparison only. Its
    random numbers come in the order of calls: one image at a time, each under its own seed, keeps a sample's result
    independent of the batch. Several images in one call are faster, but their results depend on each other.

    Args:
        norm, eps: see ``BallAttack``.
        version: ``standard`` or ``rand``.
        together: images in one call.
    """

    steps = 2  # observed is the loss at the clean image and at the result
    sees_loss_alone = False

    def __init__(
        self, norm: NormName = "Linf", eps: float = 8 / 255, version: Version = "standard", together: int = 1
    ) -> None:
        super().__init__(norm, eps)
        require(together >= 1, "together", together, "1 or more")
        published("autoattack", "name")
        self.version, self.together = version, together
        self.classes = 3 if version == "rand" else 4

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        search = Search(gradient, x, label, sample, 1, observe)
        search.ask(search.all, x, LOSSES["ce"])
        parts = search.all.split(self.together)
        x_adv = torch.cat([self._attacked(gradient, x, label, sample, part) for part in parts])
        x_adv = NORMS[self.norm].project(x_adv, x, self.eps)
        search.ask(search.all, x_adv, LOSSES["ce"])
        return x_adv

    def _attacked(self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, part: Tensor) -> Tensor:
        options = {"norm": self.norm, "eps": self.eps, "version": self.version, "device": x.device}
        model, seed = Model(gradient, sample[part[:1]]), seed_of(gradient, int(sample[part[0]]))
        with torch.random.fork_rng(), torch.no_grad():
            attack = published("autoattack", "name").AutoAttack(model, seed=seed, **options)
            attack.apgd.eot_iter = gradient.eot if self.version == "rand" else 1
            images, _ = attack.run_standard_evaluation(x[part], label[part], batch_size=self.together)
        return images

    def __str__(self) -> str:
        return f"published AutoAttack {self.version} {self.threat}"


class Model:
    """A gradient source as the published package's model: images to logits, differentiable, new draws in every call.

    The draws of every row are keyed by one sample's dataset index, (1,).
    """

    def __init__(self, gradient: GradientSource, sample: Tensor) -> None:
        self.gradient, self.sample = gradient, sample
        self.calls = FIRST_CALL

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images x (N, C, H, W)."""
        self.calls += 1
        return self.gradient.logits(x, self.sample.expand(len(x)), self.calls)


def seed_of(gradient: GradientSource, sample: int) -> int:
    """A seed for torch's generator, from the attacker's seed and the sample."""
    return (gradient.seed * 1_000_003 + sample) % 2**31


def published(module: str, key: str) -> Any:
    """A module of the optional package; AbsentError, with the argument that needs it, where that is not installed."""
    logging.getLogger("auto-attack").setLevel(logging.ERROR)  # it would warn of randomised defenses at every image
    try:
        return importlib.import_module(f"pyautoattack.{module}")
    except ImportError:
        raise AbsentError(key, "needs the package pyautoattack: pip install 'hetpure[autoattack]'") from None
