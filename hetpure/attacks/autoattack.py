"""AutoAttack (Croce & Hein 2020), an ensemble of attacks: for purified classifiers, and as published.

``AutoAttack`` is this project's composition, whose APGD runs on EOT gradients and whose choices are made by repeated
evaluation. FAB and Square, the two members of ``standard`` for static defenses, are the published package's own.
``ReferenceAutoAttack`` is that package as it is.
"""

import importlib
import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from hetpure.attacks.apgd import APGD
from hetpure.attacks.base import Attack, Observer
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.losses import LOSSES
from hetpure.attacks.norms import NORMS, NormName, check_ball, written
from hetpure.attacks.search import Search, check_evaluations
from hetpure.errors import AbsentError

Version = Literal["standard", "rand"]

_FIRST_CALL = 2**20
"""Numbers of the published code's calls start here: beyond the iterations, whose draws they would repeat."""


class AutoAttack(Attack):
    """AutoAttack for purified classifiers.

    ``rand``, for randomised defenses: APGD on cross-entropy, then on DLR, both with EOT. ``standard``, for static ones:
    APGD on cross-entropy, targeted APGD-DLR, targeted FAB, Square with 5,000 queries.

    The original drops a sample the first time that one noisy evaluation misclassifies it: luck passes for success, and
    the image that is handed on is often one that the defense gets right the next time. Here every member's candidates
    are tried out ``evaluations`` times with draws of their own, the one that the smallest share of them gets right is
    kept, and later members leave alone only what all evaluations got wrong; see ``Search``.

    FAB and Square come from the optional package ``pyautoattack`` and see one image at a time, under a seed of its own:
    its random numbers come in the order of calls, and would depend on the batch otherwise.

    Args:
        norm: the threat model, ``Linf`` or ``L2``.
        eps: radius of the ball, in units of images in [0, 1].
        version: ``rand`` or ``standard``.
        steps: iterations of an APGD run, and of FAB.
        targets: wrong classes that APGD-T and FAB-T aim at, at most.
        queries: of Square.
        evaluations: how often a candidate is tried out.

    Raises:
        ValueError: names the argument that cannot be, or the extra that ``standard`` needs.
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
        check_ball(norm, eps)
        check_evaluations(evaluations)
        if version not in ("standard", "rand"):
            raise ValueError(f"version = {version!r} must be standard or rand")
        if queries < 1:
            raise ValueError(f"queries = {queries} must be at least 1")
        self.norm, self.eps, self.version, self.evaluations = norm, eps, version, evaluations
        self.queries, self.targets = queries, targets
        second = APGD(norm, eps, steps, "dlr" if version == "rand" else "dlr_targeted", 1, targets)
        self.members = (APGD(norm, eps, steps, "ce"), second)
        self.classes = second.classes
        self.steps = sum(member.steps for member in self.members)
        if version == "standard":
            published("fab_pt", "version = 'standard'")
            self.steps += 2

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        search = Search(gradient, x, label, sample, self.evaluations, observe)
        search.offer(search.all, x)
        for member in self.members:
            member.pursue(search)
        if self.version == "standard":
            for attack in (self._fab, self._square):
                rows = search.open()
                found = [one_by_one(attack, gradient, x, label, sample, row) for row in rows.tolist()]
                if found:
                    search.offer(rows, NORMS[self.norm].project(torch.cat(found), x[rows], self.eps))
                search.skip(1)
        return search.image

    def _fab(self, model: Callable[[Tensor], Tensor], seed: int, device: torch.device) -> Any:
        attack = published("fab_pt", "version").FABAttack_PT
        return attack(
            model, norm=self.norm, n_restarts=1, n_iter=self.members[0].each, eps=self.eps, seed=seed,
            targeted=True, n_target_classes=self.targets, device=device,
        )  # fmt: skip

    def _square(self, model: Callable[[Tensor], Tensor], seed: int, device: torch.device) -> Any:
        attack = published("square", "version").SquareAttack
        return attack(
            model, norm=self.norm, n_queries=self.queries, eps=self.eps, p_init=0.8, seed=seed,
            resc_schedule=False, device=device,
        )  # fmt: skip

    def __str__(self) -> str:
        return f"AutoAttack {self.version} {written(self.norm, self.eps)}, {self.members[0].each} steps"


class ReferenceAutoAttack(Attack):
    """The published AutoAttack as it is, from the optional package ``pyautoattack``.

    One noisy evaluation decides what is dropped, so on randomised defenses it is there to compare with. Its random
    numbers come in the order of calls: one image at a time, each under a seed of its own, keeps a sample's result
    independent of the batch. More together is faster, and gives that up.

    Args:
        norm: the threat model, ``Linf`` or ``L2``.
        eps: radius of the ball, in units of images in [0, 1].
        version: ``standard`` or ``rand``.
        together: images in one call.

    Raises:
        ValueError: names the argument that cannot be, or the extra that it needs.
    """

    steps = 2
    """What is observed: the loss at the clean image and at the result."""

    def __init__(
        self, norm: NormName = "Linf", eps: float = 8 / 255, version: Version = "standard", together: int = 1
    ) -> None:
        check_ball(norm, eps)
        if version not in ("standard", "rand"):
            raise ValueError(f"version = {version!r} must be standard or rand")
        if together < 1:
            raise ValueError(f"together = {together} must be at least 1")
        published("autoattack", "name = 'autoattack_reference'")
        self.norm, self.eps, self.version, self.together = norm, eps, version, together
        self.classes = 3 if version == "rand" else 4

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        search = Search(gradient, x, label, sample, 1, observe)
        search.ask(search.all, x, LOSSES["ce"])
        found = torch.cat(
            [self._attacked(gradient, x, label, sample, part) for part in search.all.split(self.together)]
        )
        found = NORMS[self.norm].project(found, x, self.eps)
        search.ask(search.all, found, LOSSES["ce"])
        return found

    def _attacked(self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, part: Tensor) -> Tensor:
        module = published("autoattack", "name")
        seed = seed_of(gradient, int(sample[part[0]]))
        with torch.random.fork_rng(), torch.no_grad():
            attack = module.AutoAttack(
                Model(gradient, sample[part[:1]]), device=x.device, eps=self.eps, norm=self.norm, seed=seed,
                version=self.version,
            )  # fmt: skip
            attack.apgd.eot_iter = gradient.eot if self.version == "rand" else 1
            images, _ = attack.run_standard_evaluation(x[part], label[part], batch_size=self.together)
        return images

    def __str__(self) -> str:
        return f"published AutoAttack {self.version} {written(self.norm, self.eps)}"


class Model:
    """A gradient source as the published package wants its model: images to logits, differentiable, fresh draws a call.

    Args:
        gradient: the defense as the attacker sees it.
        sample: (1,) the dataset index that keys the draws of every row.
    """

    def __init__(self, gradient: GradientSource, sample: Tensor) -> None:
        self.gradient, self.sample = gradient, sample
        self.calls = _FIRST_CALL

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images x (N, C, H, W)."""
        self.calls += 1
        return self.gradient.logits(x, self.sample.expand(len(x)), self.calls)


def one_by_one(
    build: Callable[[Callable[[Tensor], Tensor], int, torch.device], Any],
    gradient: GradientSource,
    x: Tensor,
    label: Tensor,
    sample: Tensor,
    row: int,
) -> Tensor:
    """What a published attack makes of one image, (1, C, H, W), under the sample's own seed."""
    one = slice(row, row + 1)
    seed = seed_of(gradient, int(sample[row]))
    with torch.random.fork_rng(), torch.no_grad():
        return build(Model(gradient, sample[one]), seed, x.device).perturb(x[one], label[one])


def seed_of(gradient: GradientSource, sample: int) -> int:
    """A seed for torch's generator, of the attacker's seed and the sample."""
    return (gradient.seed * 1_000_003 + sample) % 2**31


def published(module: str, wanted_by: str) -> Any:
    """A module of the optional package.

    Raises:
        AbsentError: where it is not installed.
    """
    logging.getLogger("auto-attack").setLevel(logging.ERROR)  # it would warn of randomised defenses at every image
    try:
        return importlib.import_module(f"pyautoattack.{module}")
    except ImportError:
        raise AbsentError(f"{wanted_by} needs the package pyautoattack: pip install 'hetpure[autoattack]'") from None
