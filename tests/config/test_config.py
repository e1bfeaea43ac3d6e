from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from hetpure.cli import main
from hetpure.config import (
    CONFIG_DIR,
    PROJECT_ROOT,
    config_file,
    merge,
    parse_overrides,
    read_config,
    resolve_path,
    signature_schema,
    structure,
    to_dict,
    to_yaml,
)
from hetpure.errors import ConfigError


@dataclass
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass
class Outer:
    count: int = 3
    name: str | None = None
    inner: Inner = field(default_factory=Inner)
    free: dict[str, Any] = field(default_factory=dict)
    many: list[int] | None = None


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_bare_name_is_looked_up_in_configs() -> None:
    demo = CONFIG_DIR / "demo.yaml"
    assert config_file("demo.yaml") == config_file("demo") == demo
    assert config_file(str(demo)) == demo


def test_a_missing_config_names_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"demoo\.yaml: no such file.*demo\.yaml"):
        config_file("demoo.yaml")


def test_paths_in_configs_are_relative_to_the_project_from_anywhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_path("pyproject.toml") == PROJECT_ROOT / "pyproject.toml"
    (tmp_path / "pyproject.toml").touch()
    assert resolve_path("pyproject.toml").resolve() == tmp_path / "pyproject.toml"
    assert resolve_path("nowhere") == Path("nowhere")
    assert resolve_path(tmp_path) == tmp_path


def test_the_home_directory_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "mine.yaml", "include: [digits.yaml]\n")
    for command, config in (("evaluate", "~/mine.yaml"), ("train-classifier", "digits_classifier.yaml")):
        assert main([command, "--config", config, "output=~/x", "--print-config"]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["output"] == f"{tmp_path}/x"
    assert main(["report", "~/x"]) == 2 and f"error: {tmp_path}/x: " in capsys.readouterr().err
    assert resolve_path("~/mine.yaml") == tmp_path / "mine.yaml"
    assert resolve_path("~nosuchuser/x") == Path("~nosuchuser/x")


def test_anchors_may_stand_for_little(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, "a.yaml", "a: &a [1, 2]\nb: {x: *a, y: *a}\n"), [])
    assert config == {"a": [1, 2], "b": {"x": [1, 2], "y": [1, 2]}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("attack.eps=8/255", {"attack": {"eps": "8/255"}}),  # a number where the schema wants one
        ("a=null", {"a": None}),
        ("a=text/with/slashes", {"a": "text/with/slashes"}),
        ("a=1e-4", {"a": 1e-4}),
        ("a=", {"a": ""}),
    ],
)
def test_overrides_are_yaml(text: str, expected: dict) -> None:
    parsed = parse_overrides([text])
    assert parsed == expected or (text == "a=" and parsed in ({"a": ""}, {"a": None}))


@pytest.mark.parametrize("text", ["attack.eps", "=3", "--eps", "a.b=[1,"])
def test_what_is_no_override_is_refused_on_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides([text])
    assert "\n" not in str(caught.value) and text.split("=")[0] in str(caught.value)


def test_overrides_win_over_the_file_over_its_includes(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "a: 1\nb: {x: 1, y: 1, z: 1}\n")
    write(tmp_path, "other.yaml", "b: {y: 2}\n")
    main = write(tmp_path, "main.yaml", "include: [base.yaml, other.yaml]\nb: {z: 1.5}\n")
    assert read_config(main, ["b.w=4"]) == {"a": 1, "b": {"x": 1, "y": 2, "z": 1.5, "w": 4}}


@pytest.mark.parametrize(
    "text",
    ["a: [1, 2", "- 1\n- 2\n", "1: 2", "a: b: c", "include: 3", "include: [no_such.yaml]", "\x00"],
)
def test_malformed_files_are_refused_on_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path, "bad.yaml", text), [])
    assert "\n" not in str(caught.value)


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "include: [b.yaml]\n")
    with pytest.raises(ConfigError, match="includes itself"):
        read_config(write(tmp_path, "b.yaml", "include: [a.yaml]\n"), [])


def test_files_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError):
        read_config(str(tmp_path / "bad.yaml"), [])


def test_merge_goes_deep_and_changes_neither_side() -> None:
    a, b = {"x": {"y": 1, "z": {"w": 2}}, "k": 1}, {"x": {"z": {"v": 3}}, "k": {"n": 1}}
    assert merge(a, b) == {"x": {"y": 1, "z": {"w": 2, "v": 3}}, "k": {"n": 1}}
    assert a == {"x": {"y": 1, "z": {"w": 2}}, "k": 1} and b == {"x": {"z": {"v": 3}}, "k": {"n": 1}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"grid_size": 10}, {"name": "uniform", "t": 0.1, "grid_size": 10}),
        ({"name": "uniform", "grid_size": 10}, {"name": "uniform", "t": 0.1, "grid_size": 10}),
        ({"name": "none"}, {"name": "none"}),
    ],
)
def test_a_method_that_changes_its_name_starts_afresh(change: dict, expected: dict) -> None:
    assert merge({"purifier": {"name": "uniform", "t": 0.1}}, {"purifier": change})["purifier"] == expected


def test_other_sections_keep_their_keys_under_a_new_name() -> None:
    assert merge({"data": {"name": "digits", "subset": 64}}, {"data": {"name": "folder"}})["data"]["subset"] == 64


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), (" 0.5 / 2 ", 0.25)])
def test_fractions_are_numbers_where_numbers_are_wanted(text: str, value: float) -> None:
    assert structure(Outer, {"inner": {"rate": text}}).inner.rate == value
    assert structure(Outer, {"name": "2024/05"}).name == "2024/05"


@pytest.mark.parametrize("text", ["8/0", "8/2.5.5"])
def test_a_fraction_that_is_no_number_is_refused_by_key(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^inner\.rate is .*a fraction is written as 8/255"):
        structure(Outer, {"inner": {"rate": text}})


def test_structure_fills_in_defaults() -> None:
    config = structure(Outer, {"inner": {"rate": 2}})
    assert to_dict(config) == {"count": 3, "name": None, "inner": {"rate": 2.0, "kind": "a"}, "free": {}, "many": None}


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ({"cuont": 3}, ["part.cuont", "unknown key", "did you mean count", "inner"]),
        ({"inner": {"rat": 3}}, ["part.inner.rat", "unknown key", "did you mean rate", "kind"]),
        ({"count": "many"}, ["part.count", "many"]),
        ({"count": 1.5}, ["part.count", "1.5"]),
        ({"count": None}, ["part.count"]),
        ({"count": 10**23}, ["part.count", "at most 9223372036854775807"]),
        ({"count": 10**5000}, ["part.count", "thousands of digits", "at most 9223372036854775807"]),
        ({"inner": {"rate": float("inf")}}, ["part.inner.rate is inf", "a finite number"]),
        ({"inner": {"rate": "nan"}}, ["part.inner.rate is 'nan'", "a finite number"]),
        ({"free": {"a": [10**23]}}, ["part.free.a", "at most"]),
        ({"name": "x" * 5000}, ["part.name is 'xxx", "at most 4096 characters"]),
        ({"name": "a\0b"}, ["part.name", "without NUL"]),
        ({"count": [1]}, ["part.count"]),
        ({"inner": {"rate": "fast"}}, ["part.inner.rate", "fast"]),
        ({"inner": {"kind": "c"}}, ["part.inner.kind", "c"]),
        ({"inner": 3}, ["part.inner", "3"]),
        ({"inner": None}, ["part.inner"]),
        ({"name": ["a"]}, ["part.name"]),
        ({"free": ["a"]}, ["part.free", "['a']", "section of keys"]),
        ({"many": {"a": 1}}, ["part.many", "{'a': 1}", "a list"]),
    ],
)
def test_structure_names_the_key_what_was_found_and_what_is_accepted(raw: dict, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        structure(Outer, raw, "part")
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


def test_a_constructors_signature_is_its_schema() -> None:
    class Thing:
        def __init__(self, network: object, size: int, rate: float = 0.5, kinds: list[str] | None = None) -> None: ...

    schema = signature_schema(Thing, supplied=("network",), name=(str, "thing"))
    assert to_dict(structure(schema, {"size": 3, "kinds": ["a"]})) == {
        "name": "thing",
        "size": 3,
        "rate": 0.5,
        "kinds": ["a"],
    }
    with pytest.raises(ConfigError, match=r"thing\.size"):
        structure(schema, {}, "thing")
    with pytest.raises(ConfigError, match=r"thing\.network: unknown"):
        structure(schema, {"size": 1, "network": 1}, "thing")


def test_yaml_text_reads_back_as_it_was() -> None:
    config = structure(Outer, {"inner": {"rate": 8 / 255}, "name": "ü: [", "free": {"a": [1, None, True], "b": 1e-7}})
    assert to_dict(structure(Outer, yaml.safe_load(to_yaml(config)))) == to_dict(config)
