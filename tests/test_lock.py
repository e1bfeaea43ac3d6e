"""``requirements.lock``, what the CPU image takes of it, and the lowest versions that docs/versions.md tested."""

import importlib.util
import re
import tomllib

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.version import Version

from hetpure.config import PROJECT_ROOT

LOCK = (PROJECT_ROOT / "requirements.lock").read_text()
PINS = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", LOCK, re.MULTILINE))
VERSIONS = (PROJECT_ROOT / "docs" / "versions.md").read_text()
PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# ``robustbench`` requires one version of timm, and is left out of the lock.
LOCKED = [*PROJECT["dependencies"], *EXTRAS["autoattack"], *EXTRAS["dashboards"], *EXTRAS["dev"]]


@pytest.mark.parametrize("text", [text for text in LOCKED if not text.startswith("hetpure[")])
def test_the_lock_holds_every_dependency_in_its_range(text: str) -> None:
    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate({**default_environment(), "extra": ""}):
        return
    name = re.sub(r"[-_.]+", "-", requirement.name).lower()
    assert name in PINS, f"{name} is not locked: make lock"
    assert requirement.specifier.contains(PINS[name], prereleases=True), f"{text}, locked is {PINS[name]}: make lock"


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *EXTRAS["autoattack"], *EXTRAS["dashboards"]])
def test_a_lower_bound_is_the_version_that_was_tested(text: str) -> None:
    """``make test-lowest`` installs the lower bounds; docs/versions.md says which versions passed."""
    requirement = Requirement(text)
    (bound,) = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
    row = re.search(rf"^\| {requirement.name} \| (\S+) \|", VERSIONS, re.MULTILINE)
    assert row, f"{requirement.name} is not in the table of docs/versions.md"
    assert Version(row[1]) == Version(bound), f"{text}, tested is {row[1]}: make test-lowest"


def test_every_package_is_pinned_by_its_files_hashes_and_no_place_is_named() -> None:
    entries = re.split(r"\n(?=[a-z])", LOCK)[1:]
    assert len(entries) == len(PINS) > 50
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in LOCK and "index-url" not in LOCK


def test_without_cuda_nothing_of_it_is_left_and_nothing_else_is_missing() -> None:
    spec = importlib.util.spec_from_file_location("cpu_requirements", PROJECT_ROOT / "docker" / "cpu_requirements.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch, rest = module.split(LOCK)
    assert torch == [f"{name}=={PINS[name]}" for name in ("torch", "torchvision")]
    names = {entry.partition("==")[0] for entry in rest}
    cuda = set(PINS) - names - {"torch", "torchvision"}
    assert cuda and all(name.startswith(("nvidia-", "cuda-")) or name == "triton" for name in cuda)
    assert {"numpy", "lightning", "timm"} <= names and all("--hash=sha256:" in entry for entry in rest)
