"""A config's grid becomes rows."""

from typing import Any

import pytest

from hetpure.config import read_config, to_dict
from hetpure.errors import ConfigError
from hetpure.evaluation.config import RunSettings, complete
from hetpure.purification.none import NoPurifier
from hetpure.purification.registry import PURIFIERS


def completed(*overrides: str, rows: Any = None) -> RunSettings:
    return complete(read_config("digits.yaml", ["output=unused", *overrides]) | {"rows": rows})


def test_every_combination_is_a_row() -> None:
    config = completed("grid={purifier.tau: [0.5, 0.7], ensemble.size: [2, 4]}")
    assert list(config.rows) == ["tau=0.5, S=2", "tau=0.5, S=4", "tau=0.7, S=2", "tau=0.7, S=4"]
    rows = config.rows.values()
    assert [(r.purifier["tau"], r.ensemble.size) for r in rows] == [(0.5, 2), (0.5, 4), (0.7, 2), (0.7, 4)]
    assert {r.purifier["grid_size"] for r in rows} == {50} and {r.attack["eps"] for r in rows} == {0.15}


def test_rows_beside_a_grid_stay_and_a_resolved_config_is_its_own_expansion() -> None:
    config = completed("grid.purifier.tau=[0.5]", rows={"undefended": {"purifier": {"name": "none"}}})
    assert list(config.rows) == ["undefended", "tau=0.5"]
    assert complete(to_dict(config)) == config


def test_the_command_line_replaces_values_and_takes_keys_away() -> None:
    raw = read_config("digits.yaml", []) | {"rows": None, "grid": {"purifier.tau": [0.1], "attack.eot": [1, 2]}}
    raw["grid"]["purifier"] = {"tau": [0.6]}  # what grid.purifier.tau=[0.6] makes of it
    raw["grid"]["attack"] = {"eot": None}
    assert list(complete({**raw, "output": "unused"}).rows) == ["tau=0.6"]


@pytest.mark.parametrize(
    ("grid", "names"),
    [
        ("{attack.steps: [5], attack.eot: [2]}", ["iterations=5, EOT=2"]),
        (
            "{purifier.grid_size: [20], attack.process.grid_size: [10]}",
            ["purifier.grid_size=20, attack.process.grid_size=10"],
        ),
        ("{purifier.blocks: [[0, 1], null]}", ["blocks=0,1", "blocks=null"]),
        ("{attack.eps: [8/255]}", ["eps=8_255"]),
        ("{purifier: [{name: uniform, t: 0.1}, {name: none}]}", ["purifier=name=uniform,t=0.1", "purifier=name=none"]),
        ("{purifier.name: [none, uniform]}", ["name=none", "name=uniform"]),
    ],
)
def test_names(grid: str, names: list[str]) -> None:
    assert list(completed(f"grid={grid}").rows) == names


def test_what_the_purifier_refuses_together_is_left_out_and_said() -> None:
    config = completed("grid={purifier.t_large: [0.1, 0.2, 0.3], purifier.t_small: [0.05, 0.1, 0.2]}")
    allowed = [(t_large, t_small) for t_large in (0.1, 0.2, 0.3) for t_small in (0.05, 0.1, 0.2) if t_small < t_large]
    assert list(config.rows) == [f"t_large={a}, t_small={b}" for a, b in allowed]
    assert list(config.left_out) == ["t_large=0.1, t_small=0.1", "t_large=0.1, t_small=0.2", "t_large=0.2, t_small=0.2"]
    assert config.left_out["t_large=0.1, t_small=0.1"].startswith("purifier.t_small is 0.1")
    again = complete(to_dict(config))  # a run that goes on, from the config that it saved
    assert again == config


class Pair(NoPurifier):
    """Refuses b = 2 beside a = 2, in words that a test chooses, and a = 3 by itself."""

    words = ""

    def __init__(self, a: int = 1, b: int = 1) -> None:
        super().__init__()
        if a == b == 2:
            raise ConfigError("b", self.words, related=("a",))
        if a == 3:
            raise ConfigError("a", "is 3, whatever b is")


@pytest.mark.parametrize("words", ["b must differ from a", "a a b b", "no", "a = 2; b = 2. Accepted: less."])
def test_rewording_a_refusal_changes_no_row(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PURIFIERS.targets, "pair", f"{__name__}:Pair")
    monkeypatch.setattr(Pair, "words", words)
    config = completed("purifier={name: pair}", "grid={purifier.a: [1, 2], purifier.b: [1, 2]}")
    assert list(config.rows) == ["a=1, b=1", "a=1, b=2", "a=2, b=1"]
    assert config.left_out == {"a=2, b=2": f"purifier.b: {words}"}
    with pytest.raises(ConfigError) as refused:  # the message names both, the fields only one
        completed("purifier={name: pair}", "grid={purifier.a: [1, 3], purifier.b: [1, 2]}")
    assert refused.value.key == "rows.a=3, b=1.purifier.a"


def test_a_coarse_attack_process_leaves_out_what_it_cannot_follow() -> None:
    config = completed(
        "grid={purifier.t_large: [0.2, 0.3], purifier.t_small: [0.05, 0.15]}", "attack.process={grid_size: 10}"
    )
    assert list(config.rows) == [
        "t_large=0.2, t_small=0.05", "t_large=0.3, t_small=0.05", "t_large=0.3, t_small=0.15"
    ]  # fmt: skip
    assert config.left_out["t_large=0.2, t_small=0.15"].startswith("attack.process.grid_size is 10")


def test_a_value_that_is_wrong_by_itself_is_not_left_out() -> None:
    for grid, key in (
        ("{purifier.t_large: [0.2, 1.5], purifier.t_small: [0.1]}", "rows.t_large=1.5, t_small=0.1.purifier.t_large"),
        ("{purifier.t_small: [0.1, 0.2]}", "rows.t_small=0.2.purifier.t_small"),  # not below the config's own t_large
    ):
        with pytest.raises(ConfigError) as refused:
            completed(f"grid={grid}")
        assert refused.value.key == key


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("{seed: [0, 1]}", "grid.seed: seed is the same for all rows"),
        ("{data.subset: [8, 16]}", "grid.data.subset: data is the same for all rows"),
        ("{purifier.tau: 0.5}", "grid.purifier.tau is 0.5; accepted: a list of values"),
        ("{purifier.tau: []}", "grid.purifier.tau is []; accepted: a list"),
        ("{purifier.tau: [0.5, 0.5]}", "grid.purifier.tau: 0.5 is there twice"),
        ("{purifier.taw: [0.5]}", "rows.taw=0.5.purifier.taw: unknown key; accepted: name"),
        ("{purifier.tau: [high]}", "rows.tau=high.purifier.tau: "),
        ("{tau: [0.5]}", "tau: unknown key"),
        ("[0.5]", "grid is [0.5]; accepted: a section of keys"),
        ("{rows: [1]}", "grid.rows: rows is the same for all rows"),
        ("{purifier.t_large: [0.1], purifier.t_small: [0.2]}", "grid: the purifier refuses every combination"),
    ],
)
def test_one_clear_line(grid: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        completed(f"grid={grid}")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_grid_is_not_crossed_with_a_tables_columns() -> None:
    with pytest.raises(ConfigError, match=r"grid: does not go together with table\.columns"):
        completed("grid.purifier.tau=[0.5]", "table.columns={pgd: {}}")


def test_without_a_grid_nothing_changes() -> None:
    saved = to_dict(completed("grid=null"))
    assert (saved["rows"], saved["grid"]) == ({}, {})
    assert list(completed("grid=null").rows) == ["heterogeneous"]


def test_a_section_takes_sections() -> None:
    with pytest.raises(ConfigError, match=r"^grid.purifier is 1; accepted: a list whose values are each a section"):
        completed("grid={purifier: [1]}")
