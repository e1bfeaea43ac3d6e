"""The worst case over several attacks: of their saved images, the strongest for each sample."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetpure.attacks.base import BallAttack, Observer, Threat
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.norms import NormName
from hetpure.attacks.saved import SavedImages
from hetpure.attacks.search import Search
from hetpure.errors import ConfigError, require


class StrongestOf(BallAttack):
    """Of the adversarial images that other attacks have saved, the strongest for each sample.

    A ``Search`` chooses: each image goes through the defense ``evaluations`` times with draws of the attacker's, the
    same for all images of a sample. The defender's own draws take no part in the choice; they judge what it returns, as
    they judge every attack. Asks for no gradient.

    A sample that failed under one of the attacks has no image there, and is chosen from the others.

    Args:
        norm: the threat model of all images, ``Linf`` or ``L2``.
        eps: radius of the ball, in units of images in [0, 1].
        rows: rows of the same run, evaluated before this one.
        folders: images saved elsewhere, such as by runs with other seeds; see ``SavedImages``.
        evaluations: how often an image is tried out.

    Raises:
        ConfigError: names the argument that cannot be used.
        AbsentError: where there is no such folder or file.
    """

    steps = 0
    uses_gradients = False

    def __init__(
        self,
        norm: NormName,
        eps: float,
        rows: list[str] | None = None,
        folders: list[str] | None = None,
        evaluations: int = 20,
    ) -> None:
        super().__init__(norm, eps)
        self.source_rows, self.evaluations = rows or [], evaluations
        named = [*self.source_rows, *(folders or [])]
        require(len({*named}) == len(named) >= 2, "rows", named, "two or more different rows and folders")
        require(evaluations >= 1, "evaluations", evaluations, "1 or more")
        self._saved = partial(SavedImages, norm=norm, eps=eps)
        with _errors_about("folders"):
            self._folders = [self._saved(folder) for folder in folders or []]
        self._of_rows: list[SavedImages] | None = None if self.source_rows else []
        self._run: Path | None = None

    def find_rows(self, run: Path) -> None:
        """See ``Attack``; the rows' images may come later."""
        self._run = run.absolute()

    def check_images(self, indices: Sequence[int], clean: Callable[[int], Tensor]) -> None:
        """Checks and hashes the images of ``folders``; raises as ``SavedImages`` does."""
        with _errors_about("folders"):
            for saved in self._folders:
                _check(saved, indices, clean)
        threats = [saved.threat for saved in self._folders if saved.threat is not None]
        self.threat = Threat(self.norm, max([self.eps, *(threat.eps for threat in threats)]))
        self.content = " ".join(saved.content for saved in self._folders if saved.content is not None) or None

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        search = Search(gradient, x, label, sample, self.evaluations, observe)
        for rows, images in self.candidates(x, sample):
            search.offer(rows, images)
        return search.image

    def candidates(self, x: Tensor, sample: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each attack's images (N, C, H, W) of the samples (B,) that it has any of, with their numbers (N,) in x.

        Raises:
            ConfigError: where an image is missing, damaged, or outside the ball around x.
        """
        position = {index: number for number, index in enumerate(sample.tolist())}
        with _errors_about("rows"):
            for saved in self._saved_by_rows():
                _check(saved, [*position], lambda index: x[position[index]].cpu())
        for saved in (*self._saved_by_rows(), *self._folders):
            if indices := [index for index in position if index not in saved.failed]:
                rows = torch.tensor([position[index] for index in indices], device=x.device)
                yield rows, saved.images(indices).to(x)

    def failure(self, index: int) -> str | None:
        """See ``Attack``."""
        sources = [*self._saved_by_rows(), *self._folders]
        if any(index not in saved.failed for saved in sources):
            return None
        return f"no image to choose from: the sample failed in {self._named(' and ')}"

    def rehearsal(self) -> "StrongestOf":
        """See ``Attack``."""
        named = [*self.source_rows, *(self.arguments["folders"] or [])]
        return _Rehearsal(**{**self.arguments, "rows": named, "folders": None})

    def with_eps(self, eps: float) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        draws = f"chosen per image by {self.evaluations} draws of the attacker's own"
        return f"strongest of {self._named(', ')}; {self.threat}, {draws}"

    def _named(self, separator: str) -> str:
        folders = ("/".join(each.path.parts[-2:]) for each in self._folders)  # runs of one row differ in the first part
        return separator.join([*(name.rpartition("/")[2] for name in self.source_rows), *folders])

    def _saved_by_rows(self) -> list[SavedImages]:
        if self._of_rows is None:
            if self._run is None:
                raise ConfigError("rows", "are rows of a run, and this attack is part of none", found=self.source_rows)
            self._of_rows = [self._saved(str(self._run / name)) for name in self.source_rows]
        return self._of_rows


class _Rehearsal(StrongestOf):
    """Tries out the clean image, as often as there are images to choose from."""

    def candidates(self, x: Tensor, sample: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        return ((torch.arange(len(x), device=x.device), x) for _ in self.source_rows)


def _check(saved: SavedImages, indices: Sequence[int], clean: Callable[[int], Tensor]) -> None:
    saved.open(indices)
    saved.check_images([index for index in indices if index not in saved.failed], clean)


@contextmanager
def _errors_about(key: str) -> Iterator[None]:
    """Errors about the ``folder`` of ``SavedImages`` become errors about another argument."""
    try:
        yield
    except ConfigError as error:
        error.key = key
        raise
