"""Renamed keys: refused with the new name in a config, upgraded in the config of an old run folder."""

import inspect
import subprocess
import sys
from typing import Any

import pytest

from hetpure.config.renamed import RENAMED_PURIFIER_KEYS, upgrade_config
from hetpure.errors import ConfigError
from hetpure.evaluation.config import complete
from hetpure.purification.registry import PURIFIERS, complete_settings, surrogate_settings

CLASSIFIER = {"name": "cifar_resnet8"}


@pytest.mark.parametrize("name", PURIFIERS)
def test_no_purifier_has_an_old_key_and_each_new_key_is_one(name: str) -> None:
    arguments = inspect.signature(PURIFIERS[name]).parameters
    assert "steps" not in arguments
    for old, new in RENAMED_PURIFIER_KEYS.get(name, {}).items():
        assert old not in arguments and new in arguments


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in RENAMED_PURIFIER_KEYS.items() for key in keys])
def test_an_old_key_is_refused_with_its_new_name(name: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        complete_settings({"name": name, key: 1})
    assert str(caught.value) == f"purifier.{key}: is now called purifier.{RENAMED_PURIFIER_KEYS[name][key]}"
    assert caught.value.key == f"purifier.{key}"


def test_it_is_refused_wherever_a_config_has_it() -> None:
    with pytest.raises(ConfigError, match=r"^attack\.process\.steps: is now called attack\.process\.network_calls$"):
        surrogate_settings(complete_settings({"name": "gns"}), {"steps": [1]})
    changes: list[dict[str, Any]] = [
        {"purifier": {"steps": 50}},  # the default purifier's
        {"rows": {"a": {"purifier": {"name": "ebm", "steps": 3}}}},
        {"attack": {"process": {"name": "adp", "steps": 3}}},
        {"grid": {"purifier.steps": [10, 20]}},
    ]
    for change in changes:
        with pytest.raises(ConfigError, match=r"steps: is now called .*(grid_size|langevin_steps|score_steps)$"):
            complete({"classifier": CLASSIFIER, **change})


def test_an_attacks_steps_are_its_own() -> None:
    config = complete({"classifier": CLASSIFIER, "attack": {"name": "pgd", "steps": 7, "process": {"grid_size": 10}}})
    assert config.attack["steps"] == 7
    old = {"purifier": {"name": "uniform"}, "attack": {"steps": 7, "process": {"steps": 10}}, "rows": None}
    assert upgrade_config(old) == {**old, "attack": {"steps": 7, "process": {"grid_size": 10}}}


def test_an_old_config_is_upgraded_section_by_section() -> None:
    """A row without a purifier has the whole config's; a process that names another purifier has that one's keys."""
    old = {
        "seed": 0,
        "purifier": {"name": "gns", "t": [0.03], "steps": [3]},
        "attack": {"name": "pgd", "steps": 5, "process": {"steps": [1]}},
        "rows": {
            "same": {"attack": {"name": "pgd", "steps": 5, "process": {"steps": [1]}}},
            "other": {"purifier": {"name": "uniform", "steps": 50}, "attack": {"name": "none"}},
            "surrogate": {
                "purifier": {"name": "ebm", "network": {"arguments": {"steps": 2}}, "steps": 9},
                "attack": {"steps": 5, "process": {"name": "mimic", "steps": 10}},
            },
            "process": {"purifier": {"name": "adp", "steps": 2}},
            "purifier": None,
        },
        "grid": {"purifier.steps": [[3], [5]]},
    }
    new = upgrade_config(old)
    assert new == {
        "seed": 0,
        "purifier": {"name": "gns", "t": [0.03], "network_calls": [3]},
        "attack": {"name": "pgd", "steps": 5, "process": {"network_calls": [1]}},
        "rows": {
            "same": {"attack": {"name": "pgd", "steps": 5, "process": {"network_calls": [1]}}},
            "other": {"purifier": {"name": "uniform", "grid_size": 50}, "attack": {"name": "none"}},
            "surrogate": {
                "purifier": {"name": "ebm", "network": {"arguments": {"steps": 2}}, "langevin_steps": 9},
                "attack": {"steps": 5, "process": {"name": "mimic", "grid_size": 10}},
            },
            "process": {"purifier": {"name": "adp", "score_steps": 2}},
            "purifier": None,
        },
        "grid": {"purifier.steps": [[3], [5]]},
    }
    assert list(new) == list(old) and upgrade_config(new) == new


@pytest.mark.parametrize("config", [{}, {"rows": 3}, {"purifier": 3, "attack": {"process": [1]}, "rows": {"a": 1}}])
def test_what_is_no_config_of_an_evaluation_stays_as_it_is(config: dict[str, Any]) -> None:
    assert upgrade_config(config) == config


def test_the_table_needs_no_torch() -> None:
    code = "import sys, hetpure.config.renamed; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
