"""What every attack is, and what the attacks of this project have in common."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from hetpure.arguments import KeepsArguments
from hetpure.attacks.gradients import ExactGradient, GradientSource
from hetpure.attacks.norms import NormName
from hetpure.attacks.search import Observer, Search
from hetpure.errors import require


class Threat(NamedTuple):
    """A threat model: adversarial images lie within eps of the clean image, for images in [0, 1].

    ``norm`` is a ``NormName`` or names another measure: ``StAdv``, the largest component of a flow field, in units of
    half the image's width or height; ``LPIPS``, of VGG. Results under different measures are not compared.
    """

    norm: str
    eps: float

    def __str__(self) -> str:
        levels = self.eps * 255
        as_levels = self.norm == "Linf" and abs(levels - round(levels)) < 1e-6
        return f"{self.norm} eps {f'{levels:.0f}/255' if as_levels else f'{self.eps:g}'}"


class Attack(KeepsArguments, ABC):
    """Images and their labels to adversarial images, by asking a gradient source.

    The honesty checks compare an attack with variants of it: more iterations, a larger ball, random noise. They know
    the attack by what it declares here, not by the names of its arguments, and give no verdict on what it leaves out.

    Attributes:
        steps: how often ``observe`` is called, the same for every batch.
        classes: how many classes there must be at least.
        threat: the threat model; None where none is declared.
        run_length: iterations of one run, for an attack of several runs whose losses cannot be compared; else None.
        has_prefixes: whether the images at which it asks for gradients are what it would return if it stopped there.
        skip_broken: whether images leave it early, so that they have fewer gradients than there are ``steps``.
        uses_defense: whether the adversarial images depend on the defense.
        sees_loss_alone: whether all that its steps follow are gradients of the loss, whatever that is.
        uses_gradients: whether it asks for gradients, so that it matters how it sees the defense.
        source_rows: names of the rows of the same run whose saved images it needs; they are evaluated before.
        content: what the images depend on beside the config: a version, a hash of files; part of the run's content.
    """

    steps: int
    classes: int = 2
    threat: Threat | None = None
    run_length: int | None = None
    has_prefixes: bool = False
    skip_broken: bool = False
    uses_defense: bool = True
    sees_loss_alone: bool = True
    uses_gradients: bool = True
    source_rows: Sequence[str] = ()
    content: str | None = None

    def check_images(self, indices: Sequence[int], clean: Callable[[int], Tensor]) -> None:
        """Called before a run with the dataset indices of its samples, and with their clean images (C, H, W) by index.

        Raises:
            ConfigError: where the attack cannot be made on these samples.
        """
        return

    def find_rows(self, run: Path) -> None:
        """Called before ``check_images`` with the run's folder, in which ``source_rows`` have a folder each."""
        return

    def failure(self, index: int) -> str | None:
        """Why a sample, a dataset index, cannot be attacked; None where it can. Asked after its batch is attacked."""
        return None

    def rehearsal(self) -> "Attack":
        """An attack with this one's calls that needs no files: ``plan`` counts them on an image of its own."""
        return self

    @abstractmethod
    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        """Adversarial images (B, C, H, W) in [0, 1], within the attack's ball around the clean images x.

        Labels are true classes (B,), samples are dataset indices (B,), which key the attacker's draws. ``observe`` is
        called after every iteration with its number and its gradient, of all B images.
        """

    @abstractmethod
    def __str__(self) -> str:
        """The attack in a few words, for titles."""

    def purifications(self, gradient: ExactGradient) -> int:
        """Purifications of an image that go into each gradient that is observed."""
        return gradient.purifications

    def more_steps(self, factor: int) -> dict[str, Any]:
        """Arguments that give this attack ``factor`` times the iterations; none where that is not declared."""
        return {}

    def with_eps(self, eps: float) -> dict[str, Any]:
        """Arguments that give this attack another radius; none where that is not declared."""
        return {}

    def reaching(self, eps: float) -> dict[str, Any]:
        """Arguments that let this attack get to the edge of a much larger ball, of radius ``eps``."""
        return self.with_eps(eps)


class BallAttack(Attack):
    """An attack with arguments ``norm`` and ``eps``.

    Args:
        norm: the threat model, ``Linf`` or ``L2``.
        eps: radius of the ball, in units of images in [0, 1].
    """

    def __init__(self, norm: NormName, eps: float) -> None:
        require(0.0 <= eps < math.inf, "eps", eps, "0 or more, finite")
        self.norm, self.eps, self.threat = norm, eps, Threat(norm, eps)

    def with_eps(self, eps: float) -> dict[str, Any]:
        return {"eps": eps}


class IterativeAttack(BallAttack):
    """A ``BallAttack`` that keeps a ``Search``.

    Subclasses have these arguments in common:

    Args:
        norm, eps: see ``BallAttack``.
        steps: iterations of a run.
        evaluations: how often a candidate is tried out; see ``Search``.
        step_size: length of a step, where it is an argument.
        loss: what is maximised, where it is an argument.
        restarts: number of runs, where it is an argument.
    """

    run_length: int  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self, norm: NormName, eps: float, steps: int, evaluations: int, step_size: float | None = None
    ) -> None:
        super().__init__(norm, eps)
        require(steps >= 1, "steps", steps, "1 or more")
        require(evaluations >= 1, "evaluations", evaluations, "1 or more")
        require(step_size is None or 0.0 < step_size < math.inf, "step_size", step_size, "above 0, finite")
        self.steps, self.evaluations = steps, evaluations
        self.run_length = steps  # pyright: ignore[reportIncompatibleVariableOverride]

    @abstractmethod
    def attack(self, search: Search) -> Tensor:
        """Adversarial images of the search's images."""

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        return self.attack(Search(gradient, x, label, sample, self.evaluations, observe))

    def title(self, name: str, *details: str | None) -> str:
        """The attack's name, its threat model, and the details that there are."""
        return ", ".join([f"{name} {self.threat}", *filter(None, details)])

    def more_steps(self, factor: int) -> dict[str, Any]:
        return {"steps": factor * self.run_length}

    def reaching(self, eps: float) -> dict[str, Any]:
        """See ``Attack``: steps of 2.5 eps in all, unless they are longer already."""
        if (step_size := self.arguments.get("step_size")) is None:
            return self.with_eps(eps)
        return {**self.with_eps(eps), "step_size": max(step_size, 2.5 * eps / self.run_length)}
