"""``attack`` sections: what is filled in, and one clear line for what cannot be."""

import pytest

from hetpure.attacks.recommended import VERSIONS
from hetpure.attacks.registry import ATTACKS, complete_attack
from hetpure.config import merge
from hetpure.errors import ConfigError
from hetpure.evaluation.config import complete


def test_defaults_are_the_papers_attack_on_exact_gradients() -> None:
    found = complete_attack({})
    assert found["name"] == "pgd" and found["gradient"] == {"name": "exact"}
    assert (found["eot"], found["steps"], found["loss"], found["restarts"]) == (20, 200, "ce", 1)
    assert found["random_start"] is False


def test_a_mode_is_a_name_or_a_section() -> None:
    assert complete_attack({"gradient": "bpda"})["gradient"] == {"name": "bpda"}
    section = {"name": "mask_aware", "temperature": 0.5}
    assert complete_attack({"gradient": section})["gradient"] == {**section, "forward": "hard"}
    assert complete_attack({"process": {"grid_size": 10}})["gradient"] == {"name": "surrogate"}
    twice = complete_attack(complete_attack({"gradient": section}))
    assert twice == complete_attack({"gradient": section})


def test_another_mode_starts_afresh() -> None:
    base = {"attack": {"gradient": {"name": "mask_aware", "temperature": 0.5}}}
    assert merge(base, {"attack": {"gradient": {"name": "bpda"}}})["attack"]["gradient"] == {"name": "bpda"}


def test_another_purifiers_row_drops_the_surrogate() -> None:
    base = {
        "classifier": {"name": "cifar_resnet8"},
        "purifier": {"name": "heterogeneous"},
        "attack": {"gradient": "surrogate", "process": {"grid_size": 20}},
        "rows": {"a": {}, "b": {"purifier": {"name": "none"}}},
    }
    rows = complete(base).rows
    assert rows["a"].attack["gradient"]["name"] == "surrogate"
    assert rows["b"].attack["gradient"]["name"] == "exact"


@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in ("autoattack_reference", "saved", "strongest_of")])
def test_every_attack_completes_from_its_name(name: str) -> None:
    assert complete_attack({"name": name})["name"] == name


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "fgsm"}, "attack.name is 'fgsm'; accepted: pgd, apgd"),
        ({"name": "apgd", "step_size": 0.1}, "attack.step_size: unknown key; accepted: name, gradient"),
        ({"name": "apgd", "loss": "mse"}, "attack.loss is "),
        ({"name": "pgd", "loss": "dlr_targeted"}, "attack.loss is "),
        ({"name": "autoattack", "version": "plus"}, "attack.version: "),
        ({"name": "autoattack", "queries": 0}, "attack.queries is 0; accepted: 1 or more"),
        ({"name": "autoattack_reference", "together": "x"}, "attack.together: "),
        ({"restarts": 0}, "attack.restarts is 0; accepted: 1 or more"),
        ({"evaluations": 0}, "attack.evaluations is 0; accepted: 1 or more"),
        ({"random_start": "perhaps"}, "attack.random_start: "),
        ({"name": "apgd", "rho": 2}, "attack.rho is 2.0; accepted: 0 to 1"),
        ({"gradient": "true"}, "attack.gradient.name is 'true'; accepted: exact, surrogate, bpda"),
        ({"gradient": 3}, "attack.gradient is 3; accepted: exact"),
        ({"gradient": ["bpda"]}, r"attack.gradient is \['bpda'\]; accepted: "),
        ({"gradient": {"name": 3}}, "attack.gradient.name is 3; accepted: "),
        ({"gradient": {"name": "bpda", "temperature": 1}}, "attack.gradient.temperature: unknown key"),
        ({"gradient": {"name": "mask_aware", "temperature": "hot"}}, "attack.gradient.temperature: "),
        ({"gradient": {"name": "mask_aware", "forward": "firm"}}, "attack.gradient.forward: "),
        ({"gradient": "surrogate"}, "attack.process: is empty"),
        (
            {"gradient": "exact", "process": {"grid_size": 9}},
            "attack.process is .*; accepted: none with gradient exact",
        ),
        (
            {"gradient": "deterministic", "process": {"grid_size": 9}},
            "attack.process is .*; accepted: none with gradient deterministic",
        ),
        (
            {"gradient": "blind", "process": {"grid_size": 9}},
            "attack.process is .*; accepted: none with gradient blind",
        ),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^{expected}") as caught:
        complete_attack(settings)
    assert "\n" not in str(caught.value)


def test_a_recommended_attack_is_written_out_and_its_own_keys_win() -> None:
    latest = complete_attack({"name": "recommended", "eps": 0.1})
    version, settings = list(VERSIONS.items())[-1]
    assert latest == complete_attack({"name": version, "eps": 0.1}) == complete_attack({**settings, "eps": 0.1})
    assert latest["name"] in ATTACKS and complete_attack(latest) == latest
    assert complete_attack({"name": "recommended", "steps": 7})["steps"] == 7
    with pytest.raises(ConfigError, match=r"attack\.retarts: unknown key"):
        complete_attack({"name": "recommended", "retarts": 2})


def test_version_1_of_the_recommended_attack_stays_what_it_is() -> None:
    assert VERSIONS["recommended_1"] == {"name": "momentum_pgd", "steps": 100, "eot": 4}
