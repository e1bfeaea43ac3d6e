"""A sweep from its config to its figure, and what W&B is told of it."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb import wandb_agent
from wandb.sdk.launch.sweeps import utils as sweep_utils

from hetpure.cli import main
from hetpure.config import CONFIG_DIR, read_config, to_dict
from hetpure.errors import ConfigError
from hetpure.reports import workspace
from hetpure.reports.plots import sweep
from hetpure.reports.plots.sweep import folder_points
from hetpure.runs.names import combinations, labels
from tests.evaluation.jobs import evaluate
from tests.reports.wandb_files import read_run

TAUS = [0.5, 0.9]
SMALL = ("data.subset=4", "attack.steps=2", "attack.eot=1", "ensemble.size=2", "purifier.grid_size=20")
NAMES = sorted(file.stem for file in (CONFIG_DIR / "sweeps" / "wandb").glob("*.yaml"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, tau at two values, on W&B offline."""
    output = tmp_path_factory.mktemp("runs") / "tau"
    rows = {"undefended": {"purifier": {"name": "none"}}}
    more = (f"grid.purifier.tau={TAUS}", "pictures=1", "wandb.mode=offline")
    assert evaluate(output, rows, *SMALL, *more) == 0
    return output


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of an agent, likewise."""
    output = tmp_path_factory.mktemp("runs") / "tau=0.5"
    assert evaluate(output, {}, *SMALL, "purifier.tau=0.5", "pictures=1", "wandb.mode=offline") == 0
    return output


# ---- one command


def test_a_sweep_leaves_a_row_a_value_and_a_figure(swept: Path) -> None:
    rows = json.loads((swept / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["undefended", "tau=0.5", "tau=0.9"]
    assert {row["images"] for row in rows} == {4}
    assert (swept / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_computes_nothing_and_another_value_only_itself(swept: Path, capsys) -> None:
    before = {file: file.read_bytes() for file in swept.rglob("samples-*.jsonl")}
    assert len(before) == 3
    (swept / "sweep.png").unlink()
    rows = {"undefended": {"purifier": {"name": "none"}}}
    assert evaluate(swept, rows, *SMALL, f"grid.purifier.tau={[*TAUS, 1.0]}", "wandb.mode=disabled") == 0
    said = capsys.readouterr().out
    assert [f"{name}: all 4 images are done already" in said for name in ("tau=0.5", "tau=0.9", "tau=1.0")] == [
        True, True, False
    ]  # fmt: skip
    after = {file: file.read_bytes() for file in swept.rglob("samples-*.jsonl")}
    assert {file: after[file] for file in before} == before and len(after) == 4
    assert (swept / "sweep.png").is_file()


def test_the_figure_from_folders_of_single_runs(swept: Path, single: Path, tmp_path: Path, capsys) -> None:
    (point,) = sweep.folder_points([single], ["purifier.tau"])
    (row,) = json.loads((single / "results.json").read_text())["rows"]
    assert point.values == {"purifier.tau": 0.5} and point.result.robust.value == row["robust"]["value"]
    assert [p.values["purifier.grid_size"] for p in sweep.folder_points([single], ["purifier.grid_size"])] == [20]
    file = tmp_path / "tau.png"
    assert main(["report", str(single), "--over", "purifier.tau", "--output", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    for arguments, said in (
        ([str(single), "--over", "purifier.taw"], "--over purifier.taw: the config of"),
        ([str(tmp_path), "--over", "purifier.tau"], "is not an evaluation's folder"),
        ([str(single), str(single), "--over", "purifier.tau"], "has the same values as another row"),
    ):
        assert main(["report", *arguments, "--output", str(file)]) == 2
        errors = capsys.readouterr().err
        assert said in errors and errors.count("\n") == 1


@pytest.mark.parametrize("grid", [{"a.x": [1, 2], "a.y": [0.1, 0.2]}, {"a.x": [[0, 1], None]}, {"a.x": [3]}])
def test_every_kind_of_grid_is_drawn(grid: dict[str, list[Any]], single: Path, tmp_path: Path) -> None:
    (first,) = sweep.folder_points([single], ["purifier.tau"])
    points = [sweep.Point(values, first.result) for values in combinations(grid).values()][:3]
    sweep.draw(points, [first.result], "title", tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


# ---- what W&B is told


def test_a_sweeps_run_read_back(swept: Path) -> None:
    logged = read_run(swept)
    results = {row["method"]: row for row in json.loads((swept / "results.json").read_text())["rows"]}
    assert logged.config["grid"] == {"purifier.tau": TAUS}
    assert logged.config["rows"]["tau=0.9"]["purifier"]["tau"] == 0.9
    assert logged.config["attack"]["steps"] == 2 and logged.config["data"]["subset"] == 4
    points = logged.lines("sweep/tau")
    assert [point["sweep/tau"] for point in points] == TAUS
    for point in points:
        row = results[f"tau={point['sweep/tau']}"]
        for side in ("standard", "robust"):
            assert point[f"sweep/{side}_accuracy"] == row[side]["value"]
            assert point[f"sweep/{side}_accuracy_low"] == row[side]["low"]
        # t_large 0.2 on a grid of 20: four calls a purification; 2 iterations of one draw; S = 2, clean and attacked.
        assert (point["sweep/attack_calls"], point["sweep/defense_calls"]) == (2 * 1 * 4, 2 * 2 * 4)
        assert logged.last(f"tau={point['sweep/tau']}/robust_accuracy") == row["robust"]["value"]
    assert logged.last("undefended/robust_accuracy") == results["undefended"]["robust"]["value"]
    assert "robust_accuracy" not in logged.keys, "which row's would it be?"
    for name in ("undefended", "tau=0.5", "tau=0.9"):
        curve = logged.lines(f"{name}/attack_loss")
        assert [line[f"{name}/iteration"] for line in curve] == [line["iteration"] for line in curve] == [0, 1]
    files = [*logged.media("pictures"), *logged.media("tau=0.5/pictures"), *logged.media("sweep/figure")]
    assert len(files) == 5
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    table = json.loads((logged.folder / "files" / logged.last("results/path")).read_text())
    assert [line[0] for line in table["data"]] == ["undefended", "tau=0.5", "tau=0.9"]


def test_an_agents_run_read_back(single: Path) -> None:
    logged = read_run(single)
    (row,) = json.loads((single / "results.json").read_text())["rows"]
    assert logged.name == "tau=0.5" and logged.config["purifier"]["tau"] == 0.5
    assert logged.last("robust_accuracy") == row["robust"]["value"]
    assert logged.last("standard_accuracy") == row["standard"]["value"]
    assert logged.last("attack_calls") == 8 and logged.last("images") == 4
    assert [line["iteration"] for line in logged.lines("attack_loss")] == [0, 1]
    assert len(logged.media("pictures")) == 1


# ---- W&B's sweep files


class Started:
    """In a process's place: what an agent would have started."""

    def __init__(self, command: list[str], env: dict[str, str], forward_signals: bool = False) -> None:
        self.command = command


def agents_commands(file: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], list[str]]]:
    """What W&B's own agent makes of each combination of a sweep file."""
    config = sweep_utils.load_sweep_config(str(file))
    assert config is not None
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SWEEP_ID"):
        monkeypatch.setenv(name, "abc")  # the agent sets them; so they are put back
    monkeypatch.setattr(wandb_agent, "AgentProcess", Started)
    agent: Any = object.__new__(wandb_agent.Agent)
    agent._in_jupyter, agent._function, agent._forward_signals = False, None, False
    agent._run_processes = {}
    parameters = {key: parameter["values"] for key, parameter in config["parameters"].items()}
    found = []
    for number, values in enumerate(itertools.product(*parameters.values())):
        chosen = dict(zip(parameters, values, strict=True))
        agent._sweep_command = list(config["command"])
        arguments = {key: {"value": value} for key, value in chosen.items()}
        agent._command_run({"run_id": f"run{number}", "program": config["program"], "args": arguments})
        found.append((chosen, agent._run_processes[f"run{number}"].command))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_agents_share_the_grid(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every combination's command is one that evaluate.py understands, with a folder and values of its own."""
    monkeypatch.chdir(tmp_path)
    commands = agents_commands(CONFIG_DIR / "sweeps" / "wandb" / f"{name}.yaml", monkeypatch)
    own = read_config(f"sweeps/{name}.yaml", [])["grid"]
    outputs = []
    for chosen, command in (commands[0], commands[-1]):
        assert command[:3] == ["/usr/bin/env", "python", "evaluate.py"]
        configs: list[Any] = []
        monkeypatch.setattr(
            "hetpure.evaluation.run.run", lambda config, _, configs=configs, **__: configs.append(config)
        )
        assert main(["evaluate", *command[3:]]) == 0
        (row,) = configs[0].rows.values()
        for key, value in chosen.items():
            section, last = key.split(".")
            assert to_dict(getattr(row, section))[last] == value
        outputs.append(configs[0].output)
    assert len(set(outputs)) == 2 and all(output.startswith(f"runs/sweeps/wandb/{name}/") for output in outputs)
    folder = commands[0][1][-1]
    assert folder.startswith("output=") and all(f"${{{key}}}" in folder for key in own), "a folder for each combination"
    for chosen, _ in commands:
        assert chosen.keys() == own.keys() and all(value in own[key] for key, value in chosen.items())


def test_there_is_a_file_for_agents_and_a_lab_for_every_sweep() -> None:
    for folder in ("", "lab", "wandb"):
        assert sorted(file.stem for file in (CONFIG_DIR / "sweeps" / folder).glob("*.yaml")) == NAMES
    assert NAMES == ["S", "U", "attack_steps", "blocks", "eot", "t_large_t_small", "tau"]
    for file in (CONFIG_DIR / "sweeps" / "wandb").glob("*.yaml"):
        config = yaml.safe_load(file.read_text())
        assert config["metric"]["name"] == "robust_accuracy" and config["method"] == "grid"
        assert f"wandb sweep configs/sweeps/wandb/{file.name}" in file.read_text()


# ---- the workspace


def panels(layout: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    sections = layout["section"]["panelBankConfig"]["sections"]
    return {section["name"]: [panel["config"] for panel in section["panels"]] for section in sections}


def test_the_workspace_shows_what_runs_log(swept: Path, single: Path, tmp_path: Path) -> None:
    file = tmp_path / "layout.json"
    assert main(["workspace", "--json", str(file)]) == 0
    shown = panels(json.loads(file.read_text()))
    line, runs, _ = shown["Accuracy over tau"]
    assert (line["xAxis"], line["metrics"]) == ("sweep/tau", ["sweep/standard_accuracy", "sweep/robust_accuracy"])
    assert (runs["xAxis"], runs["yAxis"]) == ("config:purifier.value.tau", "summary:robust_accuracy")
    _, heat, _ = shown["Heat map of t_large x t_small"]
    assert [heat[f"{axis}Axis"] for axis in "xyz"] == [
        "config:purifier.value.t_large", "config:purifier.value.t_small", "summary:robust_accuracy"
    ]  # fmt: skip
    swept_keys, single_keys = read_run(swept).keys, read_run(single).keys
    text = file.read_text()
    of_grids = set(re.findall(r'"(sweep/[^"]+)"', text)) - {f"sweep/{label}" for label in workspace.SWEPT}
    of_runs = set(re.findall(r'"summary:([^"]+)"', text))
    assert {"sweep/figure", "sweep/attack_calls"} <= of_grids and {"attack_calls", "robust_accuracy"} <= of_runs
    assert of_grids - {"sweep/figure"} <= swept_keys and "sweep/figure/filenames" in swept_keys
    assert of_runs <= single_keys
    assert shown["Pictures"][0]["mediaKeys"] == ["pictures"] and "pictures/filenames" in swept_keys & single_keys


def test_the_workspaces_names_are_the_grids() -> None:
    assert labels(workspace.SWEPT.values()) == {key: label for label, key in workspace.SWEPT.items()}


def test_without_an_account_the_workspace_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert main(["workspace", "--entity", "somebody"]) == 2
    assert main(["workspace"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(line.startswith("error: ") for line in errors)
    assert "no account is configured" in errors[0] and "--entity: must be given" in errors[1]


@pytest.mark.parametrize("results", ["[]", "{}", '{"rows": [{"method": "a"}]}', '{"rows": [1]}'])
def test_results_that_are_none_are_one_line(tmp_path: Path, results: str) -> None:
    (tmp_path / "config.yaml").write_text("{rows: {}, purifier: {name: none}}")
    (tmp_path / "results.json").write_text(results)
    with pytest.raises(ConfigError, match="is not a finished run's folder"):
        folder_points([tmp_path], ["purifier.tau"])
