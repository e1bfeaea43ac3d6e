"""200 configs that are wrong somewhere: each is one clear line that names the place, before anything is written."""

import random
from pathlib import Path
from typing import Any

import pytest

from hetpure.cli import main
from hetpure.config import read_config, to_dict
from hetpure.data import ImageDataModule
from hetpure.evaluation.build import build_rows
from hetpure.evaluation.config import RunSettings, complete

SECTIONS = ("", "data", "classifier", "denoiser", "purifier", "attack", "attack.process", "ensemble", "protocols",
            "honesty", "wandb", "trainer")  # fmt: skip
NUMBERS = {
    "seed": -1, "chunk_size": 0, "threads": 0, "pictures": -1, "data.subset": 0, "data.subset_seed": -3,
    "data.batch_size": 0, "data.workers": -1, "data.image_size": 0, "purifier.t_large": 1.5, "purifier.t_small": -0.2,
    "purifier.grid_size": 0, "purifier.eta": -1.0, "purifier.U": 0, "purifier.p": 0, "purifier.tau": 7.0,
    "attack.eps": -1.0, "attack.steps": 0, "attack.step_size": 0.0, "attack.eot": 0, "ensemble.size": 0,
    "protocols.resubmissions": 0,
    "protocols.votes": -1, "honesty.images": -2, "honesty.factor": 1,
}  # fmt: skip
CHOICES = ("purifier.name", "purifier.preset", "purifier.order", "purifier.resampling", "purifier.end",
           "purifier.normalization", "purifier.selection", "attack.name", "attack.norm", "ensemble.mode", "wandb.mode",
           "denoiser.format", "trainer.precision", "data.name", "data.test_split")  # fmt: skip
ODD: tuple[Any, ...] = ("many", [1, 2], {"a": 1}, "", "8/0", True, ["x"], "${nowhere}")


def put(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node[parent] = dict(node.get(parent) or {})
        node = node[parent]
    node[last] = value
    return config


def damage(chance: random.Random, known: dict[str, Any]) -> tuple[str, Any]:
    """A key and a value that cannot be."""
    kind = chance.choice(("unknown", "unknown", "type", "type", "number", "number", "choice", "place"))
    if kind == "unknown":
        section = chance.choice(SECTIONS)
        letters = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz_", k=chance.randint(2, 9)))
        return f"{section}.zz{letters}".strip("."), chance.choice((1, "x", None, [], {"a": 2}))
    if kind == "type":
        key = chance.choice([*NUMBERS, *SECTIONS[1:-1]])
        section = key in SECTIONS
        accepted = {"honesty": (True,)}.get(key, ())
        values = [v for v in ODD if v not in accepted and not (section and isinstance(v, dict))]
        if not section:
            values = [v for v in values if v is not True]
        return key, chance.choice(values)
    if kind == "number":
        key = chance.choice(list(NUMBERS))
        return key, chance.choice((NUMBERS[key], float("nan"), float("-inf")))
    if kind == "choice":
        return chance.choice(CHOICES), chance.choice(("magic", 3.5, [], {"a": "b"}))
    return chance.choice((
        ("classifier.name", "no_such_model"), ("classifier.weights", "/no/such"), ("classifier.name", "a/b.py:C"),
        ("denoiser.path", "/no/such"), ("denoiser.path", None), ("classifier.mean", [0.1, "x"]), ("rows", [1]),
        ("rows", {"a": 3}), ("rows", {"a": {"seed": 1}}), ("rows", {"a": {"attack": {"zz": 1}}}),
        ("classifier.mean", [0.1, 0.2]),
    ))  # fmt: skip


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    raw = read_config("digits.yaml", ["rows=null", "wandb.mode=disabled", "data.subset=2", "output=/never/made"])
    raw["rows"] = {}
    return raw


@pytest.mark.slow
def test_200_bad_configs_are_one_line_each(base: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    chance, data = random.Random(0), ImageDataModule("digits", subset=2).prepare()
    known = to_dict(complete(base))

    def build_only(config: RunSettings, *_: Any, **__: Any) -> None:
        """What a run does before any work."""
        images = data if to_dict(config.data) == known["data"] else ImageDataModule(**to_dict(config.data)).prepare()
        build_rows(config, images)

    monkeypatch.setattr("hetpure.evaluation.run.run", build_only)
    wrong = []
    for number in range(200):
        key, value = damage(chance, known)
        config = put(dict(base), key, value)
        monkeypatch.setattr("hetpure.cli.config_arguments.read_config", lambda *_, config=config: config)
        try:
            code = main(["evaluate", "--config", "digits.yaml"])
        except Exception as error:
            wrong.append(f"{number}: {key} = {value!r}: {type(error).__name__}: {error}")
            continue
        errors = capfd.readouterr().err
        named = any(part in errors for part in (key, key.split(".")[-1], f"{key.split('.')[0]}."))
        if code != 2 or not errors.startswith("error: ") or errors.count("\n") != 1 or not named:
            wrong.append(f"{number}: {key} = {value!r}: code {code}: {errors[:300]}")
    assert not wrong, "\n".join(wrong)
    assert not Path("/never/made").exists()
