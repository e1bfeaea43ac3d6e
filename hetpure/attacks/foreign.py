"""Attacks of other libraries, torchattacks, foolbox and ART, on the attacker's view of the defense.

A library sees an ``nn.Module`` from images to logits. Everything that ``attack`` has for the included attacks keeps its
meaning: gradient mode, surrogate process, recomputation, and EOT draws, whose logits are averaged in each call.
"""

import functools
import importlib
import importlib.metadata
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hetpure.attacks.autoattack import FIRST_CALL, seed_of
from hetpure.attacks.base import BallAttack, Observer
from hetpure.attacks.gradients import GradientSource
from hetpure.attacks.losses import LOSSES
from hetpure.attacks.norms import NORMS, NormName
from hetpure.attacks.registry import LIBRARIES
from hetpure.attacks.search import Search
from hetpure.config.schema import parse_fraction, unknown_key
from hetpure.defense.memory import is_out_of_memory
from hetpure.errors import AbsentError, ConfigError, RunError, require
from hetpure.runs.honesty import MARGIN


@dataclass(frozen=True)
class Library:
    """How a library's attacks are called."""

    distribution: str  # the installed package, for its version
    build: Callable[..., Any]  # (class, options, model, image shape, classes) to its attack
    attack: Callable[..., Any]  # (its attack, model, x, label, eps) to adversarial images
    steps: str  # the argument with the iterations
    step_size: str  # and with the length of a step, in units of images in [0, 1]
    norms: Mapping[str, Any]  # its words for ours
    own: tuple[str, ...] = ("model", "eps", "norm")  # arguments that are supplied


class ForeignAttack(BallAttack):
    """An attack class of another library; ``foreign_class`` gives one subclass for each.

    Libraries draw random numbers from global generators in the order of calls. So each image is attacked alone, with
    the generators seeded for it and restored afterwards: results do not depend on the batch. The image that comes back
    is clamped to [0, 1] and must lie within the declared ball; it is not projected.

    Args:
        norm: the threat model, ``Linf`` or ``L2``.
        eps: radius of the ball, in units of images in [0, 1]; the class's own ``eps``, where it has one.
        arguments: further arguments of the class; numbers may be fractions, ``2/255``.

    Raises:
        ConfigError: names the argument that cannot be used.
        AbsentError: where the library is not installed.
    """

    foreign_name: ClassVar[str] = ""
    sees_loss_alone = False
    steps = 2
    """Observed is the loss at the clean image and at the result."""

    def __init__(self, norm: NormName, eps: float, arguments: dict[str, Any] | None = None) -> None:
        super().__init__(norm, eps)
        prefix, _, name = self.foreign_name.partition(":")
        self.library, self.cls = _LIBRARIES[prefix], library_class(self.foreign_name)
        self.given = {key: parse_fraction(value, f"arguments.{key}") for key, value in (arguments or {}).items()}
        self.parameters = inspect.signature(self.cls.__init__).parameters
        own = (*self.library.own, "self")
        accepted = [key for key, p in self.parameters.items() if p.kind != p.VAR_KEYWORD and key not in own]
        is_open = any(p.kind == p.VAR_KEYWORD for p in self.parameters.values())
        for key in self.given:
            if key in ("eps", "norm", "epsilons"):
                raise ConfigError(f"arguments.{key}", f"is set by attack.{'norm' if key == 'norm' else 'eps'}")
            if key not in accepted and not (is_open and key not in own):
                raise unknown_key(key, accepted, "arguments")
        supplied = {"eps": eps, "norm": self.library.norms.get(norm), "verbose": False}
        self.options = {k: v for k, v in supplied.items() if k in self.parameters} | self.given
        try:
            trial = self.library.build(self.cls, self.options, nn.Linear(1, 2), (1, 8, 8), 2)
        except Exception as error:
            raise ConfigError("arguments", f"{name} refuses them: {_one_line(error)}") from None
        order = getattr(getattr(trial, "distance", None), "p", None)  # foolbox states it
        own_norm = {2: "L2", float("inf"): "Linf"}.get(order, norm) if order is not None else norm
        require(order in (None, 2, float("inf")), "name", self.foreign_name, "an attack in the norm Linf or L2")
        require(own_norm == norm, "norm", norm, f"{own_norm}, the norm of {name}")
        version = importlib.metadata.version(self.library.distribution)
        self.content = f"{self.library.distribution} {version}"

    def __call__(
        self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor, observe: Observer | None = None
    ) -> Tensor:
        search = Search(gradient, x, label, sample, 1, observe)
        search.ask(search.all, x, LOSSES["ce"])
        x_adv = torch.cat([self._attacked(gradient, x[i], label[i], sample[i]) for i in search.all.split(1)])
        distance = NORMS[self.norm].size(x_adv - x)
        limit = self.eps + MARGIN * (1.0 if self.norm == "Linf" else x[0].numel() ** 0.5)
        for index, far in zip(sample.tolist(), distance.tolist(), strict=True):
            if far > limit:
                where = f"{far:.4g} from the clean image in {self.norm}, and attack.eps is {self.eps:.4g}"
                raise RunError(f"attack {self.foreign_name}: its image of sample {index} is {where}")
        search.ask(search.all, x_adv, LOSSES["ce"])
        return x_adv

    def _attacked(self, gradient: GradientSource, x: Tensor, label: Tensor, sample: Tensor) -> Tensor:
        """The adversarial image of one image (1, C, H, W)."""
        model, shape = ForeignModel(gradient, sample, x), tuple(x.shape[1:])
        try:
            with seeded(seed_of(gradient, int(sample))), torch.enable_grad():
                attack = self.library.build(self.cls, self.options, model, shape, gradient.num_classes)
                images = self.library.attack(attack, model, x.clone(), label.clone(), self.eps)
        except (ConfigError, RunError):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise RunError(f"attack {self.foreign_name} failed at sample {int(sample)}: {_one_line(error)}") from error
        return torch.as_tensor(images).detach().to(x).clamp(0.0, 1.0)

    def more_steps(self, factor: int) -> dict[str, Any]:
        steps = self._value(self.library.steps)
        return {} if steps is None else self._with({self.library.steps: factor * int(steps)})

    def with_eps(self, eps: float) -> dict[str, Any]:
        return {"eps": eps} if "eps" in self.parameters or "eps" not in self.library.own else {}

    def reaching(self, eps: float) -> dict[str, Any]:
        """See ``Attack``: steps of 2.5 eps in all, unless they are longer already."""
        steps, size, changed = self._value(self.library.steps), self._value(self.library.step_size), self.with_eps(eps)
        if not changed or not steps or size is None:
            return changed
        return {**changed, **self._with({self.library.step_size: max(size, 2.5 * eps / steps)})}

    def _value(self, key: str) -> float | None:
        """A number among the class's arguments: the given one, else the default; None where there is none."""
        parameter = self.parameters.get(key)
        value = self.given.get(key, parameter.default if parameter else None)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def _with(self, changes: dict[str, Any]) -> dict[str, Any]:
        return {"arguments": {**self.given, **changes}}

    def __str__(self) -> str:
        def text(value: Any) -> str:
            return f"{value:.4g}" if isinstance(value, float) else str(value)

        return ", ".join([f"{self.foreign_name} {self.threat}", *(f"{k} {text(v)}" for k, v in self.given.items())])


class ForeignModel(nn.Module):
    """A gradient source as a model: images to logits, differentiable, new draws in every call.

    It has one parameter, by which libraries find its device. The networks are not inside it: libraries switch modes of
    what is.

    Args:
        gradient: the defense as the attacker sees it.
        sample: (1,) the dataset index that keys the draws of every row.
        x: a tensor of the dtype and on the device of the images.
    """

    def __init__(self, gradient: GradientSource, sample: Tensor, x: Tensor) -> None:
        super().__init__()
        self.gradient, self.sample = gradient, sample
        self.place = nn.Parameter(x.new_zeros(()), requires_grad=False)
        self.calls = FIRST_CALL
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images x (N, C, H, W): the mean over ``eot`` draws."""
        self.calls += 1
        return self.gradient.logits(x, self.sample.expand(len(x)), self.calls, self.gradient.eot)


@functools.cache
def foreign_class(name: str) -> type[ForeignAttack]:
    """The attack of a name such as ``torchattacks:EOTPGD``, as a class of this project."""
    library_class(name)
    return type(name.partition(":")[2], (ForeignAttack,), {"foreign_name": name})


def library_class(name: str) -> type:
    """The library's own class.

    Raises:
        AbsentError: where the library cannot be imported.
        ConfigError: where it has no such class.
    """
    prefix, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(LIBRARIES[prefix])
    except ImportError as error:
        raise absent(prefix, _one_line(error)) from None
    found = getattr(module, attribute, None)
    if not isinstance(found, type):
        raise ConfigError("name", "is no attack class of the library", found=name)
    return found


def absent(prefix: str, reason: str = "") -> AbsentError:
    """The error for a library that is not installed."""
    problem = f"needs {prefix}: pip install 'hetpure[{prefix}]'"
    return AbsentError("name", f"{problem} ({reason})" if reason else problem)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch, NumPy and Python, seeded; afterwards they are as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _build_torchattacks(cls: Any, options: Mapping[str, Any], model: nn.Module, shape: Any, classes: int) -> Any:
    return cls(model, **options)


def _attack_torchattacks(attack: Any, model: nn.Module, x: Tensor, label: Tensor, eps: float) -> Any:
    return attack(x, label)


def _build_foolbox(cls: Any, options: Mapping[str, Any], model: nn.Module, shape: Any, classes: int) -> Any:
    return cls(**options)


def _attack_foolbox(attack: Any, model: nn.Module, x: Tensor, label: Tensor, eps: float) -> Any:
    foolbox = importlib.import_module("foolbox")
    return attack(foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device), x, label, epsilons=eps)[1]


def _build_art(cls: Any, options: Mapping[str, Any], model: nn.Module, shape: Any, classes: int) -> Any:
    estimators = importlib.import_module("art.estimators.classification")
    device = "gpu" if next(model.parameters()).is_cuda else "cpu"
    loss, box = nn.CrossEntropyLoss(), (0.0, 1.0)
    return cls(
        estimators.PyTorchClassifier(model, loss, shape, classes, clip_values=box, device_type=device), **options
    )


def _attack_art(attack: Any, model: nn.Module, x: Tensor, label: Tensor, eps: float) -> Any:
    return attack.generate(x=x.cpu().numpy(), y=label.cpu().numpy())


_LIBRARIES = {
    "torchattacks": Library(
        "torchattacks", _build_torchattacks, _attack_torchattacks, "steps", "alpha", {"Linf": "Linf", "L2": "L2"}
    ),
    "foolbox": Library("foolbox", _build_foolbox, _attack_foolbox, "steps", "abs_stepsize", {}, own=()),
    "art": Library(
        "adversarial-robustness-toolbox", _build_art, _attack_art, "max_iter", "eps_step", {"Linf": np.inf, "L2": 2},
        own=("estimator", "classifier", "eps", "norm"),
    ),
}  # fmt: skip
