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
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


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


def typed(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command, elsewhere: its console script, importing nothing of this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, str(site / "bin" / "hetpure"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


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
    quick = ["data.subset=4", "attack.steps=1", "wandb.mode=disabled", "pictures=1"]
    done = typed(site, tmp_path, "evaluate", "--config", "demo.yaml", *quick)
    assert done.returncode == 0, done.stderr
    rows = read_config("demo.yaml", [])["rows"]
    assert [row for row in rows if row not in done.stdout] == []
    assert (tmp_path / "runs" / "demo" / "results.json").is_file()
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()


def test_the_installed_command_knows_its_configs(site: Path, tmp_path: Path) -> None:
    done = typed(site, tmp_path, "evaluate", "--config", "demmo.yaml")
    assert done.returncode == 2 and "did you mean demo.yaml" in done.stderr
    listed = typed(site, tmp_path, "configs").stdout
    assert str(site) in listed.splitlines()[0] and [name for name in config_names() if name not in listed] == []
    shown = typed(site, tmp_path, "evaluate", "--config", "tables/lab.yaml", "--print-config")
    assert shown.returncode == 0 and "cifar10_lab/denoiser" in shown.stdout


def test_the_installed_lab_networks_are_found(site: Path, tmp_path: Path) -> None:
    code = (
        "import hetpure; from hetpure.config import resolve_path as r; "
        "print(hetpure.__file__, r('checkpoints/cifar10_lab/denoiser'), r('checkpoints/digits/classifier'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert all(Path(file).exists() and Path(file).is_relative_to(site) for file in done.stdout.split()), done.stderr
