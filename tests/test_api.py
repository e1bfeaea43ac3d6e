"""``hetpure.evaluate``: the command's evaluation, of objects in hand."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.utils.data import TensorDataset

import hetpure
from hetpure import PGD, ConfigError, HeterogeneousPurifier, ImageDataModule, PurifiedClassifier, UniformPurifier
from hetpure.config import PROJECT_ROOT, read_config
from hetpure.data.items import item
from hetpure.models.classifiers import Classifier, build_classifier
from hetpure.models.denoisers import Denoiser, Recomputed, build_denoiser
from hetpure.purification.gns import GradualNoisePurifier
from hetpure.purification.none import NoPurifier
from hetpure.purification.pixeldefend import PixelDefendPurifier
from tests.evaluation.jobs import evaluate as command
from tests.toys import tiny_denoiser

QUIET: dict[str, Any] = {"threads": 1, "pictures": 0, "wandb": {"mode": "disabled"}, "trainer": {"accelerator": "cpu"}}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    section = read_config("digits.yaml", [])["classifier"]
    return build_classifier(section["name"], section["weights"], arguments=section["arguments"])


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return build_denoiser(read_config("digits.yaml", [])["denoiser"]["path"])


@pytest.fixture
def defense(classifier: Classifier, denoiser: Denoiser) -> PurifiedClassifier:
    return PurifiedClassifier(
        classifier, UniformPurifier(denoiser, t=0.1, grid_size=10), 10, ensemble_size=2, chunk_size=8
    )


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    data = ImageDataModule("digits", subset=4).prepare()
    items = [item(data.test_source, index) for index in data.indices]
    return torch.stack([one["image"] for one in items]), torch.tensor([one["label"] for one in items])


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [line for file in sorted(folder.rglob("*.jsonl")) for line in file.read_text().splitlines()]
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "image", "settings")} for line in lines]


def adversarial(folder: Path) -> list[bytes]:
    """The bits of the saved adversarial images."""
    files = sorted([*folder.rglob("*.npy"), *folder.rglob("*.npz"), *folder.rglob("*.safetensors")])
    return [file.read_bytes() for file in files if file.is_relative_to(folder) and "adversarial" in str(file)]


def test_the_same_bits_as_the_command(classifier: Classifier, denoiser: Denoiser, tmp_path: Path) -> None:
    """The demo's undefended and heterogeneous rows, with honesty checks and a further protocol."""
    rows = {"heterogeneous": {"purifier": {"grid_size": 20}}, "undefended": {"purifier": {"name": "none"}}}
    options = ("data.subset=4", "data.batch_size=4", "attack.steps=2", "protocols.resubmissions=2", "honesty.images=1",
               "chunk_size=16")  # fmt: skip
    assert command(tmp_path / "command", rows, *options) == 0

    # As a user would build them; the denoiser may be wrapped already.
    purifier = HeterogeneousPurifier(Recomputed(denoiser), classifier, grid_size=20)
    result = hetpure.evaluate(
        {
            name: PurifiedClassifier(classifier, p, 10, ensemble_size=4, ensemble_mode="mean_logits", chunk_size=16)
            for name, p in (("heterogeneous", purifier), ("undefended", NoPurifier()))
        },
        PGD("Linf", eps=0.15, step_size=0.02, steps=2),
        ImageDataModule("digits", subset=4, batch_size=4),
        tmp_path / "python",
        eot=4, recompute=False, protocols={"resubmissions": 2}, honesty={"images": 1}, **QUIET,
    )  # fmt: skip
    for row in rows:
        ours, theirs = records(tmp_path / "python" / row), records(tmp_path / "command" / row)
        assert ours == theirs and len(ours) >= 8
        images = [adversarial(tmp_path / side / row) for side in ("python", "command")]
        assert images[0] == images[1] and images[0]
    saved: list[Any] = [json.loads((tmp_path / side / "results.json").read_text()) for side in ("python", "command")]
    for results in saved:
        for row in results["rows"]:
            row["seconds"] = 0
    assert {**saved[0], "created": 0} == {**saved[1], "created": 0}
    # What is written down is what the command writes down, but for where networks come from.
    configs: list[Any] = [
        yaml.safe_load((tmp_path / side / "config.yaml").read_text()) for side in ("python", "command")
    ]
    for name in rows:
        ours, theirs = ({**config, **config["rows"][name]} for config in configs)
        assert ours["purifier"] == theirs["purifier"] and ours["attack"] == theirs["attack"]
        assert ours["protocols"] == theirs["protocols"] and ours["data"] == theirs["data"]
    # What is returned is what is written.
    assert [row.method for row in result.rows] == [row["method"] for row in saved[0]["rows"]]
    assert result["heterogeneous"].robust.value == saved[0]["rows"][0]["robust"]["value"]
    assert "heterogeneous" in str(result) and (result.folder / "report.html").is_file()


def test_it_continues_and_refuses_what_is_another_run(
    defense: PurifiedClassifier, pair: tuple[Tensor, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = PGD("Linf", eps=0.1, steps=1)
    first = hetpure.evaluate(defense, attack, pair, tmp_path / "run", eot=2, **QUIET)
    capsys.readouterr()
    again = hetpure.evaluate(defense, attack, TensorDataset(*pair), tmp_path / "run", eot=2, **QUIET)
    assert again.rows == first.rows and "all 4 images are done already" in capsys.readouterr().out
    assert [row.method for row in first.rows] == ["uniform"] and first["uniform"].images == 4
    with pytest.raises(ConfigError, match="holds another config's run"):
        hetpure.evaluate(defense, PGD("Linf", eps=0.2, steps=1), pair, tmp_path / "run", eot=2, **QUIET)
    with pytest.raises(ConfigError, match="images was"):
        hetpure.evaluate(defense, attack, (1.0 - pair[0], pair[1]), tmp_path / "run", eot=2, **QUIET)
    with torch.no_grad():
        parameter = next(defense.classifier.parameters())
        before = parameter.clone()
        parameter.mul_(1.01)
    try:
        with pytest.raises(ConfigError, match="classifier was"):
            hetpure.evaluate(defense, attack, pair, tmp_path / "run", eot=2, **QUIET)
    finally:
        with torch.no_grad():
            parameter.copy_(before)


def test_how_the_attacker_sees_the_defense(
    defense: PurifiedClassifier, pair: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    attack = PGD("Linf", eps=0.1, steps=1)
    seen = hetpure.evaluate(defense, attack, pair, tmp_path / "bpda", eot=2, gradient="bpda", **QUIET)
    assert seen["uniform"].conditions.gradients == "BPDA"
    seen = hetpure.evaluate(defense, attack, pair, tmp_path / "coarse", eot=3, process={"grid_size": 20}, **QUIET)
    assert seen["uniform"].conditions.gradients == "surrogate: grid_size 20" and seen["uniform"].conditions.eot == 3
    clean = hetpure.evaluate(defense, None, pair, tmp_path / "clean", **QUIET)["uniform"]
    assert clean.standard.count > 0 and np.isnan(clean.robust.value)


class Halves(torch.nn.Module):
    """Stands in for PixelCNN: a distribution over 256 values that knows nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 256, *x.shape[1:])


def test_a_purifier_around_a_network_in_hand(
    classifier: Classifier, pair: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    defense = PurifiedClassifier(classifier, PixelDefendPurifier(Halves(), eps=16 / 255, shape=[1, 8, 8]), 10)
    result = hetpure.evaluate(defense, None, pair, tmp_path / "run", **QUIET)
    assert result["pixeldefend"].images == 4


@pytest.mark.parametrize(
    ("build", "mode"),
    [
        (lambda d, c: HeterogeneousPurifier(d, c), "vote"),
        (lambda d, c: HeterogeneousPurifier(d, c, tau=0.8, grid_size=100), "vote"),
        (lambda d, c: HeterogeneousPurifier(d, c, **HeterogeneousPurifier.PRESETS["paper"]), "mean_logits"),
        (lambda d, c: HeterogeneousPurifier(d, c, **{**HeterogeneousPurifier.PRESETS["paper"], "U": 5}), "mean_logits"),
        (lambda d, c: GradualNoisePurifier(d), "vote"),
        (lambda d, c: UniformPurifier(d), "mean_logits"),
        (lambda d, c: NoPurifier(), "mean_logits"),
    ],
)
def test_the_ensemble_is_the_presets_from_python_too(build: Callable[[Denoiser, Classifier], Any], mode: str) -> None:
    classifier = build_classifier("cifar_resnet8", "random", arguments={"num_classes": 10, "in_chans": 1})
    purifier = build(tiny_denoiser(), classifier)
    assert PurifiedClassifier(classifier, purifier, 10).ensemble_mode == mode
    assert PurifiedClassifier(classifier, purifier, 10, ensemble_mode="mean_probs").ensemble_mode == "mean_probs"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": (torch.rand(2, 8, 8), torch.zeros(2).long())}, "accepted: images \\(N, C, H, W\\)"),
        ({"data": (torch.rand(2, 1, 8, 8) * 255, torch.zeros(2).long())}, "accepted: images with values from 0 to 1"),
        (
            {"data": (torch.full((2, 1, 8, 8), torch.nan), torch.zeros(2).long())},
            "accepted: images with values from 0 to 1",
        ),
        ({"data": (torch.rand(2, 1, 8, 8), torch.zeros(3).long())}, "accepted: labels"),
        ({"data": (torch.rand(2, 1, 8, 8), torch.tensor([0, 10]))}, "data is '0 to 10'; accepted: labels from 0 to 9"),
        ({"data": (torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))}, "channels"),
        ({"defense": {}}, "defense: is empty"),
        ({"gradient": "magic"}, "attack.gradient.name is 'magic'"),
        ({"process": {"grid": 3}}, "attack.process.grid: unknown key"),
        ({"eot": 0}, "attack.eot is 0"),
        ({"seed": 3}, "seed: is set by the arguments"),
        ({"hang_minuets": 3}, "hang_minuets: unknown key"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    changes: dict[str, Any], message: str, defense: PurifiedClassifier, pair: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    arguments = {"defense": defense, "attack": PGD(steps=1), "data": pair, "output": tmp_path / "run", **QUIET}
    with pytest.raises(ConfigError, match=message):
        hetpure.evaluate(**{**arguments, **changes})
    assert not (tmp_path / "run").exists()


def test_defenses_of_one_table_share_chunks_and_seed(defense: PurifiedClassifier, pair: tuple[Tensor, Tensor]) -> None:
    other = PurifiedClassifier(defense.classifier, NoPurifier(), 10, chunk_size=4)
    with pytest.raises(ConfigError, match=r"the values of chunk_size differ: \[4, 8\]"):
        hetpure.evaluate({"a": defense, "b": other}, None, pair)


def test_the_package_exports_its_names_and_imports_nothing_heavy() -> None:
    assert all(getattr(hetpure, name) is not None for name in hetpure.__all__) and set(hetpure.__all__) <= {
        *dir(hetpure)
    }
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        hetpure.evalute  # type: ignore[attr-defined]  # noqa: B018
    code = "import hetpure, sys; print(hetpure.__version__, [m for m in ('torch', 'yaml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert done.stdout == f"{hetpure.__version__} []\n"
