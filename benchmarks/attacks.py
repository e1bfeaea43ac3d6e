"""Strength against network calls: attacks of this project and published ones on one purified classifier.

    python benchmarks/attacks.py --images 48 --json calls.jsonl --plot calls.png
    python benchmarks/attacks.py --config digits.yaml --images 16 --only pgd-50x4,apgd-50x4 purifier.grid_size=20

Data, networks, purifier, norm, radius and step size are those of ``--config`` and of the overrides behind it. Strength
is measured by an independent evaluation: each adversarial image goes through the defense ``--draws`` times with draws
that no attack has seen. Printed are the mean share of right answers, the share of images that the mean logits of these
draws get right (robust accuracy), and the difference of shares to the first attack listed, paired image by image, with
its standard error. Calls are images that the denoiser sees, for one image attacked: selection, checks and padding
included; ``with graph`` says how many of them have a backward pass.

``--only`` names ATTACK[:KEY=VALUE[+KEY=VALUE]][~DRAWS]-STEPSxEOT. ATTACK is a name of ``attack.name`` with its keys
(``momentum_pgd:loss=margin``), ``deviation=1`` for gradients with that weight of DiffAttack's loss, ``eotpgd``,
torchattacks' own class on batches (fresh draws in every call), or ``diffhammer``: the published loop, unchanged, from a
checkout of Ka1b0/DiffHammer at ``--diffhammer``. It is handed the gradients of this defense; EOT is its N_EVAL, to
which each step adds one graft, and its loss is CW. DRAWS is ``grow``, draws that grow linearly from 1 to 2 EOT - 1, so
that EOT is their mean, or ``share4``, the same draws in four consecutive iterations. Results in ``--json`` are kept:
what is there already is not run again.
"""

import importlib
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import matplotlib as mpl
import torch
from common import build_parser, load_subset
from torch import Tensor, nn

from hetpure.attacks.deviation import DeviationGradient
from hetpure.attacks.gradients import ExactGradient, Gradient
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.attacks.registry import build_attack, complete_attack
from hetpure.config import read_config, to_dict
from hetpure.data.datamodule import ImageDataModule
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.evaluation.config import complete
from hetpure.models import build_classifier, build_denoiser
from hetpure.noise import Draws, attack_draws
from hetpure.purification.registry import build_purifier
from hetpure.reports.plots import style

DEFAULT = (
    "pgd-200x20,pgd-40x10,pgd-100x4,apgd-40x10,momentum_pgd-100x4,momentum_pgd:loss=margin-100x4,selective-36x10,"
    "eotpgd-40x10"
)

Tools = tuple[PurifiedClassifier, Mapping[str, Any], Tensor, Tensor, Tensor]
"""The defense, the config's section ``attack``, images, labels and indices."""


class Growing(ExactGradient):
    """Draws that grow linearly with the iterations, ``eot`` of them on average."""

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int, steps: int) -> None:
        super().__init__(process, eot, seed)
        self.mean, self.steps = eot, steps

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        self.eot = 1 + round(2 * (self.mean - 1) * iteration / max(self.steps - 1, 1))
        return super().__call__(x, label, sample, iteration, loss)


class Shared(ExactGradient):
    """The same draws in several consecutive iterations."""

    def __init__(self, process: PurifiedClassifier, eot: int, seed: int, iterations: int) -> None:
        super().__init__(process, eot, seed)
        self.iterations = iterations

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        return super().__call__(x, label, sample, iteration // self.iterations, loss)


def gradient_of(draws: str, process: PurifiedClassifier, eot: int, steps: int) -> ExactGradient:
    """An attack's gradients: with fresh draws in every iteration, or ``grow`` or ``shareN``."""
    if draws == "grow":
        return Growing(process, eot, 0, steps)
    if draws.startswith("share"):
        return Shared(process, eot, 0, int(draws.removeprefix("share")))
    return ExactGradient(process, eot, 0)


def own_attack(tools: Tools, name: str, steps: int, eot: int) -> Tensor:
    """Adversarial images of an attack of this project; see the module's docstring for the name."""
    model, section, x, label, sample = tools
    name, _, draws = name.partition("~")
    name, _, options = name.partition(":")
    given: dict[str, Any] = dict(option.split("=") for option in options.split("+") if option)
    shared = {key: section[key] for key in ("norm", "eps")}
    if name == "pgd":
        shared["step_size"] = section["step_size"]
    weight = given.pop("deviation", None)
    attack = build_attack(complete_attack({**shared, "name": name, "steps": steps, "eot": eot, **given}))
    assert attack is not None
    if weight is not None:
        return attack(DeviationGradient(model, eot, 0, float(weight)), x, label, sample)
    return attack(gradient_of(draws, model, eot, steps), x, label, sample)


class FreshDraws(nn.Module):
    """The defense as torchattacks sees it: logits of a batch, differentiable, new draws in every call."""

    def __init__(self, gradient: ExactGradient, sample: Tensor) -> None:
        super().__init__()
        self.gradient, self.sample, self.calls = gradient, sample, 0
        self.place = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.gradient.logits(x, self.sample, self.calls)


def eotpgd(tools: Tools, steps: int, eot: int) -> Tensor:
    """The class EOTPGD of torchattacks with its own step size, 2/255."""
    import torchattacks

    model, section, x, label, sample = tools
    torch.manual_seed(0)
    defense = FreshDraws(ExactGradient(model, 1, 0), sample).eval()
    attack = torchattacks.EOTPGD(defense, eps=section["eps"], steps=steps, eot_iter=eot)
    return attack(x, label).detach()


class DiffHammerDefense:
    """The defense behind the interface that DiffHammer's attacker calls, whose seeds are numbers of draws."""

    def __init__(self, gradient: ExactGradient, sample: Tensor) -> None:
        self.source, self.sample = gradient, sample

    def gradient(
        self,
        x: Tensor,
        label: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        mode: str,
        seeds: int | list[int],
        aug: None = None,
        grafted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient, logits and losses: at the purified images (``bpda``), or with what is grafted there brought back.

        All draws are the source's of the iteration that a seed names.
        """
        if isinstance(seeds, int):
            draws = attack_draws(self.source.seed, self.sample, seeds, 1)
        else:
            draws = Draws(self.source.seed, "attack", self.sample, torch.tensor(seeds))
        if grafted is not None:
            nothing = x.new_zeros(len(x))
            return self.source.to_image(x, draws, grafted), nothing, nothing
        with torch.no_grad():
            purified = self.source.process.purified_images(x, draws)
        with torch.enable_grad():
            purified.requires_grad_()
            logits = self.source.process.classifier(purified)
            value = loss(logits, label)
            (gradient,) = torch.autograd.grad(value.sum(), purified)
        return gradient, logits.detach(), value.detach()


def diffhammer(tools: Tools, checkout: Path, steps: int, draws: int) -> Tensor:
    """The published attack, one restart with the loss CW; its imports that are not used here are empty modules."""
    model, section, x, label, sample = tools
    unused = {
        "kornia": (),
        "kornia.augmentation": (),
        "models.unets.EDM": ("get_edm_cifar_uncond",),
        "models.guided_diffusion.script_util": ("create_model_and_diffusion", "model_and_diffusion_defaults"),
        "models.SmallResolutionModel": ("WideResNet_70_16_dropout",),
    }
    for name, attributes in unused.items():
        module = sys.modules.setdefault(name, ModuleType(name))
        for attribute in attributes:
            setattr(module, attribute, None)
    sys.path.insert(0, str(checkout))
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *_, **__: self  # pyright: ignore[reportAttributeAccessIssue]
    settings = {
        "RESUME": False, "N_ITERS": [steps], "NORM": "inf", "N_RESTART": 1, "RESTART_THR": 0.5, "N_EVAL": draws,
        "N_EOT": 1, "EPS": section["eps"], "LOSS_NAMES": ["CW"], "GRAD_MODE": "full", "EM": True, "EM_ALPHA": 0.5,
        "EM_LAM": 5.0, "EM_STEPS": 5,
    }  # fmt: skip
    data = SimpleNamespace(BATCH_SIZE=len(x), NUM=len(x))
    config = SimpleNamespace(
        ATTACK=settings, DATA=data, DEFENSE=SimpleNamespace(METHOD=""), OUTPUT_DIR="", EXP="", NAME=""
    )
    logger = logging.getLogger("diffhammer")
    logger.setLevel(logging.ERROR)
    torch.manual_seed(0)
    defense = DiffHammerDefense(ExactGradient(model, 1, 0), sample)
    attacker = importlib.import_module("attacker").APGD(defense, config, logger, iter(range(10**9)))
    found, _ = attacker.evaluate_robustness([(x, label)])
    return found["x_adv"]


def plot(results: dict[str, dict[str, Any]], title: str, file: Path) -> None:
    """The share of right answers against calls, each attack a point with the standard error over images."""
    looks = {
        "pgd": (style.BLUE, "o", "PGD"),
        "momentum_pgd": (style.VERMILLION, "s", "momentum PGD"),
        "apgd": (style.GREEN, "^", "APGD"),
        "selective": (style.PURPLE, "D", "selective PGD"),
        "eotpgd": (style.SKY, "v", "torchattacks EOTPGD"),
        "diffhammer": (style.ORANGE, "P", "DiffHammer, published"),
    }
    figure, drawing = style.sheet(8.0, 4.6, title)
    axes = drawing.subplots()
    reference = torch.tensor(next(iter(results.values()))["share"])
    axes.axhline(float(reference.mean()), color="0.6", linewidth=1.0, linestyle="--", zorder=0)
    labelled: set[str] = set()
    for attack, row in results.items():
        # Attacks of about the same calls stand side by side.
        near = sorted(other for other, of in results.items() if abs(of["calls"] / row["calls"] - 1.0) < 0.15)
        x = row["calls"] * 1.11 ** (near.index(attack) - (len(near) - 1) / 2)
        name, _, size = attack.rpartition("-")
        name, _, draws = name.partition("~")
        kind, _, options = name.partition(":")
        colour, marker, label = looks[kind]
        share = torch.tensor(row["share"])
        bar = 0.0 if attack == next(iter(results)) else float((share - reference).std() / len(share) ** 0.5)
        look = {"color": colour, "markerfacecolor": "white" if draws or options else colour, "capsize": 3}
        label = label if kind not in labelled else None
        axes.errorbar(x, share.mean(), yerr=bar, fmt=marker, linewidth=1.2, markersize=7, label=label, **look)
        labelled.add(kind)
        text = f"{size.replace('x', ' x ')} {draws} {options.replace('+', ', ')}".strip()
        offset: Any = {"xytext": (0, 5), "textcoords": "offset points", "rotation": 90, "ha": "center", "va": "bottom"}
        axes.annotate(text, (x, float(share.mean()) + bar), fontsize=8, color="0.25", **offset)
    axes.set(xscale="log", xlabel="denoiser calls for one image", ylabel="share of right answers, fresh draws")
    axes.margins(y=0.3)
    axes.legend()
    style.save(figure, file.with_suffix(""))


def main() -> None:
    """Runs the attacks one after the other and prints a line for each."""
    parser = build_parser(__doc__)
    parser.add_argument("--config", default="cifar10_lab.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--chunk", type=int, help="rows in a network call; by default the images: nothing is padded")
    parser.add_argument("--only", default=DEFAULT)
    parser.add_argument("--diffhammer", type=Path, help="a checkout of github.com/Ka1b0/DiffHammer")
    parser.add_argument("--json", type=Path, help="append results here, and take existing ones from it")
    parser.add_argument("--plot", type=Path, help="draw share right against calls, as .png and .pdf")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    overrides = [f"data.subset={options.images}", *options.overrides]
    config = to_dict(complete(read_config(options.config, overrides)))
    x, label, sample = load_subset(ImageDataModule(**config["data"]).prepare())
    classifier, denoiser = build_classifier(**config["classifier"]), build_denoiser(**config["denoiser"])
    purifier = build_purifier(config["purifier"], classifier, denoiser)
    model = PurifiedClassifier(classifier, purifier, 10, 4, "mean_logits", options.chunk or options.images)
    images_seen, with_graph = 0, 0

    def count(_: nn.Module, arguments: tuple[Tensor, int]) -> None:
        nonlocal images_seen, with_graph
        images_seen += len(arguments[0])
        with_graph += len(arguments[0]) * (torch.is_grad_enabled() and arguments[0].requires_grad)

    denoiser.register_forward_pre_hook(count)

    @torch.no_grad()
    def strength(images: Tensor) -> tuple[Tensor, Tensor]:
        """Share of right draws of each image, and whether the mean of their logits is right."""
        n = options.draws
        draws = Draws(7, "benchmark", sample.repeat_interleave(n), torch.arange(n).repeat(len(sample)))
        logits = model.purified_logits(images, draws).unflatten(0, (len(images), n))
        right = (logits.argmax(dim=2) == label[:, None]).to(x.dtype).mean(dim=1)
        return right, (logits.mean(dim=1).argmax(dim=1) == label).to(x.dtype)

    def adversarial(attack: str) -> Tensor:
        name, _, size = attack.rpartition("-")
        steps, eot = (int(number) for number in size.split("x"))
        tools = (model, config["attack"], x, label, sample)
        if name == "eotpgd":
            return eotpgd(tools, steps, eot)
        if name == "diffhammer":
            return diffhammer(tools, options.diffhammer, steps, eot)
        return own_attack(tools, name, steps, eot)

    settings = {"config": options.config, "overrides": options.overrides}
    settings |= {"images": options.images, "draws": options.draws, "chunk": options.chunk}
    lines = options.json.read_text().splitlines() if options.json and options.json.is_file() else []
    known = {row["attack"]: row for row in map(json.loads, lines) if row["settings"] == settings}
    results: dict[str, dict[str, Any]] = {}
    share, robust = strength(x)
    print(f"clean: share right {share.mean():.3f}, accuracy {robust.mean():.3f}", flush=True)
    headings = f"{'attack':44}{'calls/image':>12}{'with graph':>12}{'share right':>13}{'robust':>9}{'difference':>20}"
    print(f"{headings}{'seconds':>9}")
    for attack in options.only.split(","):
        row = known.get(attack)
        if row is None:
            images_seen, with_graph, start = 0, 0, time.perf_counter()
            x_adv = adversarial(attack)
            seconds, calls, graphs = time.perf_counter() - start, images_seen / len(x), with_graph / len(x)
            assert (
                float((x_adv - x).abs().max()) <= config["attack"]["eps"] + 1e-6 or config["attack"]["norm"] != "Linf"
            )
            share, robust = strength(x_adv)
            row = {"attack": attack, "calls": calls, "with_graph": graphs, "share": share.tolist()}
            row |= {"robust": robust.tolist(), "seconds": seconds, "settings": settings}
            if options.json:
                with options.json.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        results[attack] = row
        share, robust = torch.tensor(row["share"]), torch.tensor(row["robust"])
        gap = share - torch.tensor(next(iter(results.values()))["share"])
        error = gap.std() / len(gap) ** 0.5
        line = f"{attack:44}{row['calls']:12.0f}{row['with_graph']:12.0f}{share.mean():13.3f}{robust.mean():9.3f}"
        print(f"{line}{gap.mean():+12.3f} ± {error:.3f}{row['seconds']:9.0f}", flush=True)
    if options.plot:
        command = " ".join(["python benchmarks/attacks.py --config", options.config, *options.overrides])
        caption = (
            f"{options.config}, Linf {config['attack']['eps']:.4g}, n = {options.images} images, {options.draws} draws "
            "each; labels: steps x EOT. Bars: standard error of the paired difference to the first attack (dashed). "
            f"Attacks of about equal calls stand side by side. {command} --images {options.images} --plot "
            f"{options.plot.name}"
        )
        with mpl.rc_context(style.SETTINGS):
            plot(results, caption, options.plot)


if __name__ == "__main__":
    main()
