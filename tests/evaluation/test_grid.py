"""A config's grid becomes rows."""

from typing import Any

import pytest

from hetpure.config import read_config, to_dict
from hetpure.errors import ConfigError
from hetpure.evaluation.config import complete, row_configs
from hetpure.evaluation.expand_grid import expand_grid, left_out


def completed(*overrides: str, rows: Any = None) -> dict[str, Any]:
    return to_dict(complete(read_config("demo.yaml", ["output=unused", *overrides]) | {"rows": rows}))


def test_every_combination_is_a_row() -> None:
    config = completed("grid={purifier.tau: [0.5, 0.7], ensemble.size: [2, 4]}")
    assert list(config["rows"]) == ["tau=0.5, S=2", "tau=0.5, S=4", "tau=0.7, S=2", "tau=0.7, S=4"]
    rows = row_configs(complete(config))
    assert [(r.purifier.tau, r.ensemble.size) for r in rows.values()] == [(0.5, 2), (0.5, 4), (0.7, 2), (0.7, 4)]
    assert {r.purifier.grid_size for r in rows.values()} == {50} and {r.attack.eps for r in rows.values()} == {0.15}


def test_rows_beside_a_grid_stay_and_a_resolved_config_is_its_own_expansion() -> None:
    config = completed("grid.purifier.tau=[0.5]", rows={"undefended": {"purifier": {"name": "none"}}})
    assert list(config["rows"]) == ["undefended", "tau=0.5"]
    assert to_dict(complete(config)) == config


def test_the_command_line_replaces_values_and_takes_keys_away() -> None:
    raw = read_config("demo.yaml", []) | {"rows": None, "grid": {"purifier.tau": [0.1], "attack.eot": [1, 2]}}
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
    assert list(completed(f"grid={grid}")["rows"]) == names


def test_what_the_purifier_refuses_together_is_left_out_and_said() -> None:
    config = completed("grid={purifier.t_large: [0.1, 0.2, 0.3], purifier.t_small: [0.05, 0.1, 0.2]}")
    allowed = [(t_large, t_small) for t_large in (0.1, 0.2, 0.3) for t_small in (0.05, 0.1, 0.2) if t_small < t_large]
    assert list(config["rows"]) == [f"t_large={a}, t_small={b}" for a, b in allowed]
    said = left_out(config)
    assert len(said) == 3
    assert said[0] == (
        "grid: t_large=0.1, t_small=0.1 is left out: purifier.t_small is 0.1; accepted: below t_large = 0.1"
    )


def test_a_coarse_attack_process_leaves_out_what_it_cannot_follow() -> None:
    config = completed(
        "grid={purifier.t_large: [0.2, 0.3], purifier.t_small: [0.05, 0.15]}", "attack.process={grid_size: 10}"
    )
    assert list(config["rows"]) == [
        "t_large=0.2, t_small=0.05", "t_large=0.3, t_small=0.05", "t_large=0.3, t_small=0.15"
    ]  # fmt: skip
    assert "attack.process.grid_size is 10; accepted: one that has a grid point between" in left_out(config)[0]


def test_a_value_that_is_wrong_by_itself_is_not_left_out() -> None:
    config = completed("grid={purifier.t_large: [0.2, 1.5], purifier.t_small: [0.1]}")
    assert "t_large=1.5, t_small=0.1" in config["rows"]
    config = completed("grid={purifier.t_small: [0.1, 0.2]}")  # above the config's own t_large
    assert list(config["rows"]) == ["t_small=0.1", "t_small=0.2"] and left_out(config) == []


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("{seed: [0, 1]}", "grid.seed: seed is the same for all rows"),
        ("{data.subset: [8, 16]}", "grid.data.subset: data is the same for all rows"),
        ("{purifier.tau: 0.5}", "grid.purifier.tau: found 0.5, accepted is a list of values"),
        ("{purifier.tau: []}", "grid.purifier.tau: found [], accepted is a list"),
        ("{purifier.tau: [0.5, 0.5]}", "grid.purifier.tau: 0.5 is there twice"),
        ("{purifier.taw: [0.5]}", "rows.taw=0.5.purifier.taw: unknown key; accepted are name"),
        ("{purifier.tau: [high]}", "rows.tau=high.purifier.tau: "),
        ("{tau: [0.5]}", "tau: unknown key"),
        ("[0.5]", "grid: found [0.5], accepted is a section of keys"),
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
    raw = {"purifier": {"tau": 0.5}, "rows": {"a": {}}}
    assert expand_grid(raw, ()) == raw
    config = completed("grid=null")
    assert (config["rows"], config["grid"]) == ({}, {})


def test_a_section_takes_sections() -> None:
    with pytest.raises(ConfigError, match=r"grid.purifier: found 1, accepted is a list of sections"):
        completed("grid={purifier: [1]}")
