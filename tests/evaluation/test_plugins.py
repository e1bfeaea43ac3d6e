"""Code of the user's in an evaluation: used like the package's own, part of the run's content, never run unnamed."""

import json
from pathlib import Path

import pytest
import yaml

import hetpure
from hetpure.attacks.losses import Margin, find_loss
from hetpure.attacks.registry import ATTACKS
from hetpure.cli import main
from hetpure.config import CONFIG_DIR
from hetpure.config.plugins import code_hash, load
from hetpure.errors import ConfigError
from hetpure.purification.registry import PURIFIERS

SOURCE = """
from torch import Tensor

from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.losses import Margin
from hetpure.attacks.pgd import PGD
from hetpure.models.denoisers import build_denoiser
from hetpure.purification.uniform import UniformPurifier


class Mine(UniformPurifier):
    PRESETS = {"weak": {"t": 0.05}}


class Steps(PGD):
    pass


class Mode(ExactGradient):
    pass


class Loss(Margin):
    pass


def load_mine(path: str):
    return build_denoiser(path)


class Other:
    pass
"""

PLUGINS = [
    "rows=null",
    "purifier={name: mine.py:Mine, grid_size: 50, t: 0.1}",
    "attack={name: mine.py:Steps, eps: 0.15, steps: 2, eot: 2, step_size: 0.02, loss: mine.py:Loss, "
    "gradient: mine.py:Mode}",
    "denoiser.format=mine.py:load_mine",
]

OWN = [
    "rows=null",
    "purifier={name: uniform, grid_size: 50, t: 0.1}",
    "attack={name: pgd, eps: 0.15, steps: 2, eot: 2, step_size: 0.02, loss: margin}",
]

COMMON = ["evaluate", "--config", "digits.yaml", "data.subset=3", "threads=1", "wandb.mode=disabled", "pictures=1"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records(folder: Path) -> list[dict]:
    (file,) = folder.glob("*/samples-000.jsonl") if not (folder / "samples-000.jsonl").exists() else [folder]
    return [json.loads(line) | {"seconds": 0, "settings": ""} for line in file.read_text().splitlines()]


def test_an_evaluation_with_plugins_is_the_same_as_with_the_package_s_own(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMON, *PLUGINS, "output=plugins", "honesty.images=1"]) == 0
    assert main([*COMMON, *OWN, "output=own"]) == 0
    assert records(here / "plugins") == records(here / "own")
    content = yaml.safe_load((here / "plugins" / "content.yaml").read_text())["rows"]
    ((_, of_row),) = content.items()
    assert sorted(of_row["code"]) == [f"mine.py:{name}" for name in ("Loss", "Mine", "Mode", "Steps", "load_mine")]
    assert "code" not in next(iter(yaml.safe_load((here / "own" / "content.yaml").read_text())["rows"].values()))
    # Finished: the same command computes nothing; with a changed file it is refused.
    assert main([*COMMON, *PLUGINS, "output=plugins", "honesty.images=1"]) == 0
    capsys.readouterr()
    (here / "mine.py").write_text(SOURCE + "\n# changed\n")
    assert main([*COMMON, *PLUGINS, "output=plugins", "honesty.images=1"]) == 2
    error = capsys.readouterr().err
    assert "holds another config's run" in error and "mine.py:Loss was" in error and error.count("\n") == 1


def test_presets_surrogates_and_plans(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["rows=null", "purifier={name: mine.py:Mine, grid_size: 50, preset: weak}", "attack.steps=1"]
    surrogate = "attack.process={name: mine.py:Mine, grid_size: 20}"
    command = ["--config", "digits.yaml", "data.subset=2", *settings, surrogate, "--print-config"]
    assert main(["evaluate", *command]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["purifier"]["t"] == 0.05 and config["attack"]["gradient"]["name"] == "surrogate"
    assert main(["plan", *command[:-1], "--seconds=0.1"]) == 0
    assert "Mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("purifier.name=mine.py:Mime", "purifier.name: mine.py defines no Mime; did you mean Mine?"),
        ("purifier.name=mime.py:Mine", "purifier.name is 'mime.py:Mine', there is no such file"),
        ("purifier.name=mine.py:Other", "purifier.name: mine.py:Other is no subclass of "),
        ("purifier={name: mine.py:Mine, tt: 1}", "purifier.tt: unknown key; accepted: name, preset, t, grid_size"),
        ("attack.name=mine.py:Mine", "attack.name: mine.py:Mine is no subclass of hetpure.attacks.base.Attack"),
        ("attack.gradient=mine.py:Mine", "attack.gradient.name: mine.py:Mine is no subclass of "),
        ("attack.loss=mine.py:Mine", "attack.loss is 'mine.py:Mine'; accepted: a subclass of "),
        ("attack.loss=no.such.module:Loss", "attack.loss: no.such.module:Loss: cannot import no.such.module: "),
        ("denoiser.format=mine.py:Other", "denoiser.path: "),
        ("denoiser.format=mine.py:nothing", "denoiser.format: mine.py:nothing: mine.py has no nothing"),
    ],
)
def test_mistakes_are_one_line(here: Path, setting: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMON, "rows=null", "output=out", setting]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert not (here / "out").exists()


def test_a_file_that_raises_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "broken.py").write_text("class Mine:\n    pass\n\n\n1 / 0\n")
    assert main([*COMMON, "rows=null", "output=out", "purifier.name=broken.py:Mine"]) == 2
    expected = "error: purifier.name: broken.py:Mine: cannot import broken.py: ZeroDivisionError: division by zero\n"
    assert capsys.readouterr().err == expected


def test_a_file_is_imported_once_for_each_content(here: Path) -> None:
    first = load("mine.py:Mine")
    assert load("mine.py:Mine") is first and PURIFIERS["mine.py:Mine"] is first
    before = code_hash("mine.py:Mine")
    (here / "mine.py").write_text(SOURCE + "\n")
    assert load("mine.py:Mine") is not first and code_hash("mine.py:Mine") != before


def test_installed_packages_offer_names(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = here / "site" / "offering-1.0.dist-info"
    info.mkdir(parents=True)
    (here / "site" / "offering.py").write_text(SOURCE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[hetpure.purifiers]\nmine = offering:Mine\n[hetpure.attacks]\nsteps = offering:Steps\n"
        "[hetpure.losses]\nmy_loss = offering:Loss\n[hetpure.formats]\nmy_format = offering:load_mine\n"
    )
    monkeypatch.syspath_prepend(str(here / "site"))
    assert PURIFIERS["mine"].__name__ == "Mine" and "mine" in PURIFIERS and "mine" not in list(PURIFIERS)
    assert ATTACKS.check_name("steps", "attack") == "steps" and isinstance(find_loss("my_loss"), Margin)
    overrides = ["rows=null", "purifier={name: mine, grid_size: 50, t: 0.1}", "denoiser.format=my_format"]
    assert main([*COMMON, *overrides, "attack.steps=1", "output=out"]) == 0
    (of_row,) = yaml.safe_load((here / "out" / "content.yaml").read_text())["rows"].values()
    assert "offering:Mine" in of_row["code"]
    capsys.readouterr()
    assert main(["plugins"]) == 0
    listed = capsys.readouterr().out
    assert "mine" in listed and "t, grid_size, eta, end  [offering:Mine]" in listed
    assert "my_loss [offering:Loss]" in listed and "my_format [offering:load_mine]" in listed
    assert "torchattacks:CLASS" in listed and "foolbox:CLASS" in listed and "art:CLASS" in listed


def test_from_python(here: Path) -> None:
    """A purifier and an attack in hand, of classes that no registry knows."""
    section = yaml.safe_load((CONFIG_DIR / "digits.yaml").read_text())
    classifier = hetpure.build_classifier(**section["classifier"])
    denoiser = hetpure.build_denoiser(section["denoiser"]["path"])
    purifier = load("mine.py:Mine")(denoiser, t=0.1, grid_size=50)
    defense = hetpure.PurifiedClassifier(classifier, purifier, num_classes=10, ensemble_size=2)
    attack = load("mine.py:Steps")("Linf", eps=0.15, steps=1)
    settings = {"wandb": {"mode": "disabled"}, "threads": 1}
    result = hetpure.evaluate(defense, attack, hetpure.ImageDataModule("digits", subset=2), "out", eot=1, **settings)
    assert result.rows[0].method == "Mine" and result.rows[0].images == 2


def test_no_registry_takes_a_class_of_another_kind(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"^name: mine\.py:Other is no subclass"):
        PURIFIERS["mine.py:Other"]
