"""Code that a run folder names is not run unless the user names it."""

from typing import Any

import pytest

from hetpure.config.named_code import allowed_config
from hetpure.errors import ConfigError

NET = "nets/my.py:Net"


def config(**sections: Any) -> dict[str, Any]:
    return {"classifier": {"name": "resnet18", "weights": None, "source": "https://host/x"}, "rows": {}, **sections}


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"classifier": {"name": NET}}, "classifier.name"),
        ({"classifier": {"name": "os:system", "arguments": {"command": "true"}}}, "classifier.name"),
        ({"classifier": {"name": "hetpure.cli:main"}}, "classifier.name"),
        ({"classifier": {"name": "resnet18", "arguments": {"checkpoint_path": "x.pth"}}}, "arguments.checkpoint_path"),
        ({"classifier": {"name": "resnet18", "arguments": {"pretrained_cfg": {"file": "x"}}}}, "pretrained_cfg.file"),
        ({"purifier": {"name": "ebm", "network": {"name": NET, "weights": "a:b"}}}, "purifier.network.name"),
        ({"purifier": {"name": NET}}, "purifier.name"),
        ({"attack": {"name": "torchattacks:EOTPGD"}}, "attack.name"),
        ({"attack": {"name": "pgd", "gradient": {"name": NET}}}, "attack.gradient.name"),
        ({"attack": {"name": "pgd", "loss": NET}}, "attack.loss"),
        ({"attack": {"name": "pgd", "process": {"network": {"name": NET}}}}, "attack.process.network.name"),
        ({"denoiser": {"path": "a:b", "format": NET}}, "denoiser.format"),
        ({"rows": {"mine": {"classifier": {"name": NET}}}}, "classifier.name"),
        ({"rows": {"mine": None, "other": {"purifier": {"blocks": [NET]}}}}, "purifier.blocks.0"),
    ],
)
def test_every_place_that_names_code_is_refused(sections: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match="it runs only if you name it, too") as error:
        allowed_config(config(**sections), [])
    assert error.value.key.endswith(key) and "\n" not in str(error.value)


def test_paths_and_addresses_are_no_code() -> None:
    denoiser = {"path": "C:/x", "source": "https://host/x"}
    raw = config(denoiser=denoiser, attack={"name": "saved", "folder": "C:/x"}, data={"name": "hfds/owner/name:plain"})
    assert allowed_config(raw, []) == (raw, {})


def test_code_that_the_user_names_is_allowed_in_every_row_with_that_name() -> None:
    raw = config(classifier={"name": NET}, rows={"a": {"classifier": {"name": NET}}, "b": None})
    assert allowed_config(raw, [f"classifier.name={NET}"]) == (raw, {NET: NET})
    moved, names = allowed_config(raw, ["classifier.name=/copy/my.py:Net"])
    assert names == {"/copy/my.py:Net": NET}
    assert moved["classifier"]["name"] == moved["rows"]["a"]["classifier"]["name"] == "/copy/my.py:Net"
    assert raw["classifier"]["name"] == NET, "the saved config is not changed"


@pytest.mark.parametrize(
    "override",
    ["classifier.name=nets/my.py:Other", "classifier.name=other.py:Net", "classifier.name=my:Net", "classifier.name=3"],
)
def test_other_code_than_the_folder_names_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"what the run folder names: 'nets/my\.py:Net'"):
        allowed_config(config(classifier={"name": NET}), [override])


def test_code_in_another_row_is_not_allowed_with_it() -> None:
    raw = config(classifier={"name": NET}, rows={"a": {"classifier": {"name": "evil.py:Net"}}})
    with pytest.raises(ConfigError, match=r"classifier.name is 'evil\.py:Net'"):
        allowed_config(raw, [f"classifier.name={NET}"])


@pytest.mark.parametrize("override", ["attack.steps=9", "seed=1", "classifier.name=resnet18", "data.rot=x"])
def test_nothing_that_is_verified_can_be_overridden(override: str) -> None:
    with pytest.raises(ConfigError, match="would change what the run folder says"):
        allowed_config(config(), [override])


def test_weights_move() -> None:
    raw = config(classifier={"name": "resnet18", "weights": "old"}, rows={"a": {"classifier": {"weights": "old"}}})
    moved, _ = allowed_config(raw, ["classifier.weights=new"])
    assert moved["classifier"]["weights"] == moved["rows"]["a"]["classifier"]["weights"] == "new"


def test_plug_ins_of_installed_packages_are_code(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = {"hetpure.purifiers": {"theirs": "their_package:Purifier"}}
    monkeypatch.setattr("hetpure.config.named_code.entry_points", lambda group: offered.get(group, {}))
    raw = config(purifier={"name": "theirs"}, attack={"name": "pgd", "process": {"name": "theirs"}})
    with pytest.raises(ConfigError, match=r"purifier\.name is 'theirs', which is code"):
        allowed_config(raw, [])
    with pytest.raises(ConfigError, match=r"attack\.process\.name is 'theirs', which is code"):
        allowed_config(raw, ["purifier.name=theirs"])
    assert allowed_config(raw, ["purifier.name=theirs", "attack.process.name=theirs"])[0] == raw
