"""The ``hetpure`` command: help and mistakes are answered before anything heavy is imported."""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hetpure.cli import COMMANDS, configs, convert, keep_fonts_elsewhere, main
from hetpure.config import PROJECT_ROOT, config_names
from hetpure.models.denoisers import FORMATS

HEAVY = ("torch", "lightning", "diffusers", "timm", "wandb", "matplotlib", "pandas", "scipy", "sklearn")

LIGHT = {
    "": 2,
    "--help": 0,
    "--version": 0,
    "evalute": 2,
    "configs": 0,
    "evaluate --config demmo.yaml": 2,
    "evaluate --config demo.yaml nonsense": 2,
    "evaluate --config demo.yaml --rows unifrm": 2,
    "evaluate --config demo.yaml sede=1": 2,
    "evaluate --config demo.yaml data.subst=8": 2,
    "evaluate --config demo.yaml data.subset=few": 2,
    "evaluate --config demo.yaml chunk_size=0": 2,
    "evaluate --config demo.yaml classifier.weight=x": 2,
    "evaluate --config demo.yaml purifier.name=unifrm": 2,
    "evaluate --config demo.yaml purifier.tua=0.9": 2,
    "evaluate --config demo.yaml attack.stps=9": 2,
    "evaluate --config demo.yaml attack.gradient={name:mask_aware,temprature:1}": 2,
    "evaluate --config demo.yaml attack.process.t_smal=0.1": 2,
    "evaluate --config demo.yaml rows.uniform.purifier.setps=9": 2,
    "evaluate --config demo.yaml grid.purifier.tua=[0.5]": 2,
    "evaluate --config demo.yaml trainer.device=2": 2,
    "evaluate --config tables/lab.yaml rows.undefended.purifier.x=1": 2,
    "plan --config demmo.yaml": 2,
    "train-diffusion --config no_such.yaml": 2,
    "train-diffusion --config svhn.yaml optimizr.lr=1": 2,
    "train-classifier --config digits_classifier.yaml lr=0.1": 2,
    "masks --config demmo.yaml": 2,
    "purify": 2,
    "purify docs/images --config demmo.yaml --output runs/x": 2,
    "purify no.png --config demo.yaml --output runs/x": 2,
    "purify docs/images --config demo.yaml --output runs/x --row unifrm": 2,
    "purify docs/images --config demo.yaml --output runs/x purifier.tua=1": 2,
    "figures joynt runs/demo": 2,
    "verify": 2,
    "verify runs/no_such": 2,
    "verify runs/no_such --samples -1": 2,
    "report": 2,
    "report runs/demo --over purifier.tau": 2,
    "aggregate": 2,
    "convert a b --format magic": 2,
    "workspace": 2,
    **{f"{name} --help": 0 for name in COMMANDS},
}
"""Command lines that need no network, and their exit codes."""

RUN_LIGHT = f"""
import contextlib, io, json, sys, time
from hetpure.cli import main
result = {{}}
for line in json.loads(sys.argv[1]):
    out, err, before = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(line.split())
        except SystemExit as end:
            code = end.code
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    result[line] = (code, out.getvalue(), err.getvalue(), heavy, time.process_time() - before)
json.dump(result, sys.stdout)
"""


@pytest.fixture(scope="module")
def light() -> dict[str, tuple[int, str, str, list[str], float]]:
    """Code, output, errors, heavy imports and CPU seconds of each of ``LIGHT``, in one fresh interpreter."""
    command = [sys.executable, "-c", RUN_LIGHT, json.dumps([*LIGHT])]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT_ROOT).stdout)


@pytest.mark.parametrize("line", LIGHT)
def test_help_and_mistakes_are_quick_and_light(light: dict, line: str) -> None:
    code, out, errors, heavy, seconds = light[line]
    assert (code, heavy) == (LIGHT[line], []), errors
    assert seconds < 1
    assert out if code == 0 else errors
    assert code == 0 or errors.startswith(("error: ", "usage: ")), errors


def test_mistakes_name_what_was_meant(light: dict) -> None:
    assert "did you mean evaluate?" in light["evalute"][2]
    assert "did you mean demo.yaml" in light["evaluate --config demmo.yaml"][2]
    assert "did you mean joint?" in light["figures joynt runs/demo"][2]
    assert "did you mean optimizer?" in light["train-diffusion --config svhn.yaml optimizr.lr=1"][2]
    assert light["evaluate --config demo.yaml nonsense"][2].startswith("error: nonsense: is not an override")
    for wrong, meant in (
        ("sede=1", "seed"),
        ("data.subst=8", "subset"),
        ("purifier.tua=0.9", "tau"),
        ("attack.stps=9", "steps"),
    ):
        assert f"did you mean {meant}?" in light[f"evaluate --config demo.yaml {wrong}"][2]
    assert light["evaluate --config demo.yaml --rows unifrm"][2].endswith("did you mean uniform?\n")
    assert light["report runs/demo --over purifier.tau"][2] == "error: --over and --output: must be given together\n"


def test_help_lists_the_commands_and_not_the_configs(light: dict) -> None:
    assert [name for name in COMMANDS if name not in light["--help"][1]] == []
    assert "hetpure configs" in light["evaluate --help"][1] and "demo.yaml" in light["evaluate --help"][1]
    assert len(light["evaluate --help"][1].splitlines()) < 40 and "tables/table1" not in light["evaluate --help"][1]
    assert all(option in light["plan --help"][1] for option in ("--seconds", "--rate", "--print-config"))


def test_configs_lists_every_config_in_a_group_with_a_line(light: dict) -> None:
    lines = light["configs"][1].splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(listed) == config_names() and all(len(line.split(maxsplit=1)[1]) > 20 for line in lines if line)
    titles = {line for line in lines[1:] if line and not line.startswith(" ")}
    assert titles == set(configs.GROUPS.values())


def test_configs_can_be_searched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "tables/lab"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")] == [
        "tables/lab.yaml", "tables/lab_autoattack.yaml", "tables/lab_baselines.yaml", "tables/lab_pgd.yaml",
        "tables/lab_tuning.yaml",
    ]  # fmt: skip


def test_what_help_says_without_importing_is_true() -> None:
    assert set(convert.FORMATS) == FORMATS.keys() - {"diffusers", "diffusers_null_class"}


@pytest.mark.parametrize(
    ("script", "command", "config"),
    [
        ("evaluate.py", "evaluate", "demo.yaml"),
        ("train_diffusion.py", "train-diffusion", "digits_denoiser.yaml"),
        ("train_classifier.py", "train-classifier", "digits_classifier.yaml"),
    ],
)
def test_a_script_is_its_subcommand(
    script: str, command: str, config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", config, "--print-config", "seed=3"]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(PROJECT_ROOT / script), run_name="__main__")
    printed = capsys.readouterr().out
    assert end.value.code in (0, None) and "seed: 3" in printed
    assert main([command, *arguments]) == 0 and capsys.readouterr().out == printed


def test_gnu_openmp_is_told_before_torch_is_imported() -> None:
    code = "import hetpure.cli, os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {"PATH": "", "PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["1000", "False"]


def test_fonts_are_not_listed_in_a_home_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # so that what is set here is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"hetpure-matplotlib-{os.getuid()}"
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    keep_fonts_elsewhere()
    assert "MPLCONFIGDIR" not in os.environ, "a link may be somebody else's"
    folder.unlink()
    (tmp_path / "home" / ".config" / "matplotlib").mkdir(parents=True)
    keep_fonts_elsewhere()
    assert "MPLCONFIGDIR" not in os.environ, "the user's own settings may be there"
    (tmp_path / "home" / ".config" / "matplotlib").rmdir()
    keep_fonts_elsewhere()
    assert os.environ["MPLCONFIGDIR"] == str(folder) and folder.stat().st_mode & 0o777 == 0o700
    keep_fonts_elsewhere()
    monkeypatch.setenv("MPLCONFIGDIR", "/the/users")
    keep_fonts_elsewhere()
    assert os.environ["MPLCONFIGDIR"] == "/the/users"


def test_a_closed_pipe_is_no_error() -> None:
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "hetpure", "configs"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT_ROOT,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0 and time.monotonic() - start < 20
