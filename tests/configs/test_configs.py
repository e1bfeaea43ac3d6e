"""What ``configs/`` holds: every file is complete, composed of pieces that are used, and says what the paper says."""

import functools
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import hetpure.config
from hetpure.attacks.registry import build_attack
from hetpure.cli import main
from hetpure.config import CONFIG_DIR, config_file, config_names, merge, read_config, to_dict
from hetpure.data import ImageDataModule
from hetpure.evaluation.config import RowSettings, complete
from hetpure.models.classifiers import Classifier, build_classifier, build_network, with_preprocessing
from hetpure.models.denoisers import FORMATS
from hetpure.purification.registry import build_purifier, surrogate_settings
from hetpure.training.config import complete_classifier, complete_diffusion
from hetpure.training.run import train_classifier
from tests.toys import ToyDenoiser

OWN = (
    *("demo.yaml", "digits.yaml", "digits_certified.yaml", "digits_rdc.yaml"),
    *("cifar10_lab.yaml", "cifar10_lab_trained.yaml", "cifar10_lab_one_step.yaml", "imagenet_lab.yaml"),
    *("cifar10_recommended.yaml", "imagenet_recommended.yaml"),
)
"""Comparisons of this project's own; every other evaluation is a row of one of the paper's tables."""


@functools.cache
def completed(name: str) -> Any:
    raw = read_config(name, [])
    if "attack" in raw:
        return complete({**raw, "output": "unused"})
    return (complete_classifier if "classifier" in raw else complete_diffusion)({**raw, "output": "unused"})


@functools.cache
def rows(name: str) -> list[RowSettings]:
    return list(completed(name).rows.values())


def head(name: str) -> str:
    """The comment at the top of a file, on one line."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), config_file(name).read_text().splitlines())
    return " ".join(line.lstrip("# ") for line in comment)


ALL = config_names()
COMPOSED = [name for name in ALL if name.startswith(("sweeps/", "tables/"))]
TABLES = [name for name in ALL if name not in (*OWN, *COMPOSED) and "attack" in read_config(name, [])]


@pytest.mark.parametrize("name", ALL)
def test_every_config_is_complete(name: str) -> None:
    assert completed(name)
    assert head(name)


def test_pieces_are_used_and_are_no_configs() -> None:
    used: set[Path] = set()

    def follow(file: Path, section: dict[str, Any]) -> None:
        for part in section.get("include") or []:
            beside = file.parent / part
            found = beside if beside.is_file() else config_file(part)
            used.add(found.resolve())
            follow(found, yaml.safe_load(found.read_text()))
        for inner in section.values():
            if isinstance(inner, dict):
                follow(file, inner)

    for name in ALL:
        follow(config_file(name), yaml.safe_load(config_file(name).read_text()))
    assert {p.resolve() for p in (CONFIG_DIR / "pieces").rglob("*.yaml")} - used == set()
    assert ALL and not [name for name in ALL if name.startswith("pieces")]


@pytest.mark.parametrize("name", TABLES)
def test_its_methods_can_be_built(name: str) -> None:
    """All but the weights: networks of the right size, purifiers on their blocks, surrogates, attacks."""
    for row in rows(name):
        with torch.device("meta"):
            network = build_network(row.classifier["name"], arguments=row.classifier["arguments"])
            classifier = with_preprocessing(network)
        settings = row.purifier
        purifier = build_purifier(settings, classifier, ToyDenoiser(3))
        build_purifier(surrogate_settings(settings, row.attack["process"]), classifier, ToyDenoiser(3))
        assert build_attack(row.attack) is not None
        if purifier.stochastic:
            assert row.denoiser.format in FORMATS and row.denoiser.source
        assert row.classifier["weights"] and row.classifier["source"]


@pytest.mark.parametrize("name", TABLES)
def test_its_head_says_the_table_the_downloads_and_the_cost(name: str) -> None:
    text = head(name)
    assert re.match(r"Table [1-8][,:] ", text)
    for row in rows(name):
        settings, attack = row.purifier, row.attack
        named = [row.classifier["weights"], row.classifier["source"]]
        calls = [attack["steps"]]
        if settings["name"] != "none":
            named += [row.denoiser.path, row.denoiser.source]
            with torch.device("meta"):
                classifier = Classifier(build_network(row.classifier["name"]), [0.0], [1.0])
            defense, process = (
                build_purifier(s, classifier, ToyDenoiser(3)).network_calls
                for s in (settings, surrogate_settings(settings, attack["process"]))
            )
            calls = [attack["steps"] * attack["eot"] * process, 2 * row.ensemble.size * defense]
        assert [what for what in named if what not in text] == []
        assert [count for count in calls if not re.search(rf"\b{count:,} ", text)] == []


LINF, L2 = {"norm": "Linf", "eps": 8 / 255}, {"norm": "L2", "eps": 0.5}
PGD = {"name": "pgd", "steps": 200, "step_size": 0.007, "eot": 20}
SURROGATE = {"process": {"grid_size": 10}}
SCRIPT = {"t_large": 0.2, "t_small": 0.1, "tau": 0.9, "U": 3, "grid_size": 500, "selection": "threshold", "eta": 0.0}
TEXT = {"t_large": 0.2, "t_small": 0.05, "tau": 0.8, "U": 10, "resampling": "single", "root": True}
IMAGENET = {**SCRIPT, "t_large": 0.4, "t_small": 0.2, "selection": "top_fraction", "top_fraction": 0.15}
DIFFPURE = {"name": "uniform", "grid_size": 1000, "eta": 1.0}

PAPER: list[tuple[str, int, str, str, dict, dict, dict]] = [
    # config, table, classifier, denoiser, purifier, attack, ensemble
    ("cifar10_pgd", 1, "wrn28_10", "score_sde", SCRIPT, LINF | SURROGATE, {"size": 20, "mode": "vote"}),
    ("cifar10_wrn70_16_pgd", 2, "dm_wrn70_16", "score_sde", SCRIPT, LINF | SURROGATE, {"size": 20, "mode": "vote"}),
    ("cifar10_l2_pgd", 3, "wrn28_10", "score_sde", SCRIPT, L2 | SURROGATE, {"size": 20, "mode": "vote"}),
    ("cifar10_wrn70_16_l2_pgd", 4, "dm_wrn70_16", "score_sde", SCRIPT, L2 | SURROGATE, {"size": 20, "mode": "vote"}),
    ("cifar10_edm_pgd", 1, "wrn28_10", "edm", TEXT, LINF | SURROGATE, {"size": 20, "mode": "mean_logits"}),
    ("cifar10_edm_wrn70_16_pgd", 2, "dm_wrn70_16", "edm", TEXT, LINF, {"size": 20, "mode": "mean_logits"}),
    ("cifar10_edm_l2_pgd", 3, "wrn28_10", "edm", TEXT, L2, {"size": 20, "mode": "mean_logits"}),
    ("cifar10_edm_wrn70_16_l2_pgd", 4, "dm_wrn70_16", "edm", TEXT, L2, {"size": 20, "mode": "mean_logits"}),
    ("cifar10_diffpure_pgd", 1, "wrn28_10", "score_sde", DIFFPURE | {"t": 0.1}, LINF, {"size": 1}),
    ("cifar10_diffpure_wrn70_16_pgd", 2, "dm_wrn70_16", "score_sde", DIFFPURE | {"t": 0.1}, LINF, {"size": 1}),
    ("cifar10_diffpure_l2_pgd", 3, "wrn28_10", "score_sde", DIFFPURE | {"t": 0.1}, L2, {"size": 1}),
    ("cifar10_diffpure_wrn70_16_l2_pgd", 4, "dm_wrn70_16", "score_sde", DIFFPURE | {"t": 0.1}, L2, {"size": 1}),
    ("cifar10_autoattack", 1, "wrn28_10", "score_sde", SCRIPT,
     LINF | SURROGATE | {"name": "autoattack", "version": "rand", "steps": 100},
     {"size": 20, "mode": "vote"}),
    ("cifar10_bpda", 5, "wrn28_10", "score_sde", SCRIPT,
     LINF | {"steps": 100, "process": {}, "gradient": {"name": "bpda"}}, {"size": 20, "mode": "vote"}),
    ("imagenet_pgd", 6, "resnet50.tv2_in1k", "guided_diffusion", IMAGENET, LINF | SURROGATE | {"steps": 20},
     {"size": 20, "mode": "vote"}),
    ("cifar10_blocks_pgd", 7, "wrn28_10", "score_sde", SCRIPT, LINF | SURROGATE, {"size": 20, "mode": "vote"}),
    ("svhn_pgd", 8, "wrn28_10", "diffusers", SCRIPT, LINF | SURROGATE, {"size": 20, "mode": "vote"}),
]  # fmt: skip


@pytest.mark.parametrize("expected", PAPER, ids=[expected[0] for expected in PAPER])
def test_values_are_the_papers(expected: tuple[str, int, str, str, dict, dict, dict]) -> None:
    name, table, classifier, denoiser, purifier, attack, ensemble = expected
    config = completed(name)
    assert head(name).startswith(f"Table {table}")
    assert (config.classifier["name"], config.denoiser.format) == (classifier, denoiser)
    assert (config.data.subset, config.data.subset_seed) == (512, 0)
    for section, values in (
        ("purifier", purifier),
        ("attack", attack if "version" in attack else PGD | attack),
        ("ensemble", ensemble),
    ):
        found = to_dict(getattr(config, section))
        assert {key: found[key] for key in values} == values


@pytest.mark.parametrize(("name", "steps"), [("imagenet_diffpure_pgd", 20), ("svhn_diffpure_pgd", 200)])
def test_diffpures_rows_are_its_three_noise_levels(name: str, steps: int) -> None:
    assert [row.purifier["t"] for row in rows(name)] == [0.2, 0.3, 0.4]
    for row in rows(name):
        assert {key: row.purifier[key] for key in DIFFPURE} == DIFFPURE
        assert (row.attack["norm"], row.attack["eps"], row.attack["steps"]) == ("Linf", 8 / 255, steps)
        assert row.attack["process"] == {"grid_size": 50}


def test_table_7_leaves_out_one_block_at_a_time() -> None:
    found = [row.purifier["blocks"] for row in rows("cifar10_blocks_pgd.yaml")]
    assert found == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("adversarially_trained")])
def test_adversarially_trained_rows_have_no_purifier(name: str) -> None:
    config = completed(name)
    l2 = "_l2_" in name
    assert config.purifier["name"] == "none" and not config.attack["process"]
    assert (config.attack["norm"], config.attack["eps"]) == (("L2", 0.5) if l2 else ("Linf", 8 / 255))
    assert config.attack["steps"] == (20 if "imagenet" in name else 200)
    assert ("/L2/" if l2 else "/Linf/") in config.classifier["weights"]
    assert ("WideResNet-70-16" in head(name)) == (config.classifier["name"] == "dm_wrn70_16")


def test_the_imagenet_classifier_sees_224_and_the_denoiser_256() -> None:
    config = completed("imagenet_pgd")
    assert (config.data.image_size, config.classifier["image_size"]) == (256, 224)


@pytest.mark.parametrize(
    ("name", "images", "epochs", "lr", "augmented", "drop_rate"),
    [("cifar10_wrn28_10", 50_000, 200, 0.1, True, 0.0), ("svhn_wrn28_10", 73_257, 160, 0.01, False, 0.4)],
)
def test_classifier_recipes(name: str, images: int, epochs: int, lr: float, augmented: bool, drop_rate: float) -> None:
    config = completed(name)
    optimizer = {"name": "sgd", "lr": lr, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"}
    assert {key: getattr(config.optimizer, key) for key in optimizer} == optimizer
    assert (config.data.flip, config.data.crop_padding) == (augmented, 4 if augmented else 0)
    assert config.data.batch_size == 128 and config.data.subset is None
    assert config.trainer["max_steps"] == epochs * (images // 128)
    with torch.device("meta"):
        network: Any = build_network(config.classifier.name, arguments=config.classifier.arguments)
    assert sum(p.numel() for p in network.parameters()) == 36_479_194
    assert network.layer3[3].drop_rate == drop_rate


def test_what_the_svhn_recipe_trains_is_what_svhn_pgd_loads(tmp_path: Path) -> None:
    """A few steps of it, on a smaller network and other digits."""
    small = {"num_classes": 10, "depth": 10, "width": 1, "in_chans": 1}
    raw = read_config("svhn_wrn28_10.yaml", [])
    changes = {
        "data": {"name": "digits", "workers": 0},
        "classifier": {"arguments": small},
        "trainer": {"max_steps": 3, "val_check_interval": 3, "accelerator": "cpu", "enable_progress_bar": False},
        "wandb": {"mode": "disabled"},
        "output": str(tmp_path / "runs" / "svhn_wrn28_10"),
    }
    train_classifier(complete_classifier(merge(raw, changes)))
    row = completed("svhn_pgd").classifier
    assert build_classifier(row["name"], str(tmp_path / row["weights"]), arguments=small).network.training is False


# ---- weights that are not there


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any weights, on which touching the data fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hetpure.config, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(ImageDataModule, "prepare", lambda self: pytest.fail("data were opened first"))
    return tmp_path


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["evaluate", "--config", *arguments]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1
    return errors


@pytest.mark.parametrize(
    "name", ["cifar10_pgd", "svhn_pgd", "imagenet_diffpure_pgd", "adversarially_trained/cifar10_pang2022_pgd"]
)
def test_missing_weights_are_one_line_before_anything_else(name: str, elsewhere: Path, capfd) -> None:
    config = completed(name)
    errors = refused(capfd, name, "output=out")
    wanted = [config.classifier["weights"], config.classifier["source"]]
    wanted += [config.denoiser.path, config.denoiser.source] if config.purifier["name"] != "none" else []
    assert [what for what in wanted if what not in errors] == []
    assert errors.count("classifier.weights: ") == 1 and errors.count("denoiser.path: ") == (len(wanted) == 4)
    assert list(elsewhere.iterdir()) == []


def test_what_is_there_is_not_said_to_be_missing(elsewhere: Path, capfd) -> None:
    weights = elsewhere / completed("cifar10_pgd").classifier["weights"]
    weights.parent.mkdir(parents=True)
    weights.touch()
    errors = refused(capfd, "cifar10_pgd.yaml", "output=out")
    assert "classifier.weights" not in errors and "denoiser.path" in errors


def test_another_file_has_another_source(elsewhere: Path, capfd) -> None:
    errors = refused(capfd, "cifar10_pgd.yaml", "output=out", "classifier.weights=mine.pt", "denoiser.path=some/hub_id")
    assert errors == "error: classifier.weights: mine.pt: no such file\n"
    kept = merge({"denoiser": {"path": "a", "source": "b"}}, {"denoiser": {"format": "edm", "path": "a"}})
    assert kept == {"denoiser": {"path": "a", "source": "b", "format": "edm"}}


def test_a_config_without_its_weights_can_be_shown(elsewhere: Path, capfd) -> None:
    assert main(["evaluate", "--config", "imagenet_pgd.yaml", "--print-config"]) == 0
    assert "256x256_diffusion_uncond.pt" in capfd.readouterr().out
