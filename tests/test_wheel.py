"""The wheel, built from the source archive, runs its own demo in a folder where there is nothing else."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import hetpure
from hetpure.config import PROJECT_ROOT, config_names, read_config

BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, target: Path) -> Path:
    """Builds an sdist or a wheel with the setuptools that is installed; no network."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(target)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return target / result.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, from a copy of what a checkout has: building leaves folders behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "hetpure", "configs", "checkpoints"):
        subprocess.run(["cp", "-r", str(PROJECT_ROOT / name), str(copy)], check=True)
    downloaded = copy / "checkpoints" / "public" / "cifar10" / "weights.pt"
    downloaded.parent.mkdir(parents=True, exist_ok=True)
    downloaded.write_bytes(b"gigabytes")
    return build("sdist", copy, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    return build("wheel", next(unpacked.iterdir()), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed into a folder of its own, without its dependencies."""
    target = tmp_path_factory.mktemp("site")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    return target


def run_installed(site: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in another folder, with the installed package and nothing of this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


def hetpure_command(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed console script."""
    return run_installed(site, folder, str(site / "bin" / "hetpure"), *arguments)


def test_the_wheel_has_command_types_configs_and_checkpoints(wheel: Path) -> None:
    assert wheel.name.startswith(f"hetpure-{hetpure.__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        (entry_points,) = [name for name in files if name.endswith("entry_points.txt")]
        assert "hetpure = hetpure.cli:main" in archive.read(entry_points).decode()
    assert "hetpure/py.typed" in files
    for folder in ("configs", "checkpoints/digits", "checkpoints/cifar10_lab"):
        ours = {p.relative_to(PROJECT_ROOT).as_posix() for p in (PROJECT_ROOT / folder).rglob("*") if p.is_file()}
        assert ours and {f"hetpure/{name}" for name in ours} <= files
    code = {p.relative_to(PROJECT_ROOT).as_posix() for p in (PROJECT_ROOT / "hetpure").rglob("*") if p.is_file()}
    assert {name for name in code if "__pycache__" not in name} <= files
    assert not [name for name in files if "public" in name or name.startswith(("tests", "configs", "benchmarks"))]


def test_the_installed_command_evaluates_the_demo_elsewhere(site: Path, tmp_path: Path) -> None:
    overrides = ["data.subset=4", "attack.steps=1", "wandb.mode=disabled", "pictures=1"]
    result = hetpure_command(site, tmp_path, "evaluate", "--config", "demo.yaml", *overrides)
    assert result.returncode == 0, result.stderr
    rows = read_config("demo.yaml", [])["rows"]
    assert [row for row in rows if row not in result.stdout] == []
    assert (tmp_path / "runs" / "demo" / "results.json").is_file()
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()


def test_the_installed_command_knows_its_configs(site: Path, tmp_path: Path) -> None:
    result = hetpure_command(site, tmp_path, "evaluate", "--config", "demmo.yaml")
    assert result.returncode == 2 and "did you mean demo.yaml" in result.stderr
    listed = hetpure_command(site, tmp_path, "configs").stdout
    assert str(site) in listed.splitlines()[0] and [name for name in config_names() if name not in listed] == []


def test_the_installed_configs_and_networks_are_read(site: Path, tmp_path: Path) -> None:
    code = (
        "import hetpure; from hetpure.config import read_config, resolve_path; "
        "lab = read_config('tables/lab.yaml', []); "
        "print(hetpure.__file__, *map(resolve_path, ('checkpoints/digits/classifier', lab['denoiser']['path'])))"
    )
    result = run_installed(site, tmp_path, "-c", code)
    files = [Path(file) for file in result.stdout.split()]
    assert len(files) == 3 and all(file.exists() and file.is_relative_to(site) for file in files), result.stderr
    assert files[2].parts[-2:] == ("cifar10_lab", "denoiser")
