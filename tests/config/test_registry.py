"""Keys that are checked before anything is imported are the keys that the constructors take."""

import subprocess
import sys
from pathlib import Path

import pytest

from hetpure.attacks.registry import ATTACKS, COMMON, GRADIENTS, check_attack_keys, complete_attack
from hetpure.config import PROJECT_ROOT
from hetpure.config.registry import Registry, check_keys, constructor_arguments, resolve
from hetpure.config.schema import signature_schema
from hetpure.errors import ConfigError
from hetpure.evaluation.config import CLASSIFIER
from hetpure.purification.registry import PURIFIERS, check_purifier_keys, complete_settings


def refused(check, settings: dict) -> str:
    """What a check with a key that nothing has says of the accepted ones."""
    with pytest.raises(ConfigError) as caught:
        check({**settings, "no_such_key": 1})
    assert caught.value.key.endswith("no_such_key") and caught.value.problem == "unknown key"
    return caught.value.accepted


@pytest.mark.parametrize("name", PURIFIERS)
def test_early_and_real_keys_of_every_purifier_agree(name: str) -> None:
    early = set(refused(check_purifier_keys, {"name": name}).split(", "))
    real = set(refused(complete_settings, {"name": name}).split(", "))
    own_network = {"network"} if "network" in (constructor_arguments(PURIFIERS.target(name)) or ()) else set()
    assert early == real | own_network | {"preset"}  # which purifiers have presets only their classes say


@pytest.mark.parametrize("name", [*ATTACKS, *GRADIENTS])
def test_early_and_real_keys_of_every_attack_and_gradient_mode_agree(name: str) -> None:
    registry, supplied, extra = (
        (ATTACKS, (), COMMON) if name in ATTACKS else (GRADIENTS, ("process", "eot", "seed"), {})
    )
    arguments = constructor_arguments(registry.targets[name])
    assert arguments is not None
    schema = signature_schema(registry[name], supplied, **extra)
    assert {*arguments, *extra} - set(supplied) == set(schema.__dataclass_fields__)  # pyright: ignore


def test_early_and_real_keys_of_the_classifier_agree() -> None:
    fields = signature_schema(resolve(CLASSIFIER), ()).__dataclass_fields__  # pyright: ignore
    assert list(constructor_arguments(CLASSIFIER) or ()) and set(constructor_arguments(CLASSIFIER) or ()) == set(fields)


@pytest.mark.parametrize(
    "settings",
    [{}, {"name": "none", "x": 1}, {"gradient": "bpda"}, {"process": {"t": 0.1}}, {"gradient": {"name": "mask_aware"}}],
)
def test_what_the_real_check_accepts_the_early_one_does(settings: dict) -> None:
    complete_attack(settings)
    check_attack_keys(settings)


def test_nothing_is_refused_where_the_source_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere.py").write_text(
        "import other\nclass Open:\n    def __init__(self, a, **more): ...\n"
        "class Foreign(other.Base): ...\nclass Made(Open): ...\nmade = lambda a: a\n"
    )
    (tmp_path / "broken.py").write_text("class (")
    monkeypatch.syspath_prepend(tmp_path)
    targets = [f"elsewhere:{name}" for name in ("Open", "Foreign", "Made", "made", "Absent")]
    for target in (*targets, "broken:Any", "no_such_module:Any", "my.py:Any"):
        assert constructor_arguments(target) is None
        check_keys({"anything": 1}, target, "purifier")


def test_names_and_targets_import_nothing_and_classes_are_imported_when_used() -> None:
    code = (
        "import sys; from hetpure.purification.registry import PURIFIERS; from hetpure.attacks.registry import ATTACKS;"
        "assert 'uniform' in PURIFIERS and list(ATTACKS)[0] == 'pgd';"
        "print('torch' in sys.modules, PURIFIERS['none'].__name__, 'diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert done.stdout.split() == ["False", "NoPurifier", "False"]


def test_a_name_that_is_not_there_is_refused_with_the_closest() -> None:
    targets = {"first": "json.encoder:JSONEncoder", "second": "json.decoder:JSONDecoder"}
    registry = Registry(targets, base="builtins:object", group="hetpure.nothing")
    assert registry.check_name("first", "part") == "first" and registry.check_name("none", "part", "none") == "none"
    for name in ("secnd", 3, None, ["first"]):
        with pytest.raises(ConfigError, match=r"^part\.name is .*; accepted: first, second"):
            registry.check_name(name, "part")
    with pytest.raises(ConfigError, match=r"did you mean second\?$"):
        registry.check_name("secnd", "part")
    assert registry["second"]().__class__ is registry["second"] and len(registry) == 2
    assert registry.name_of(registry["second"]()) == "second" and registry.name_of(3) == "builtins:int"
