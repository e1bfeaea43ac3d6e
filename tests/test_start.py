"""What a command imports before its work begins. Seconds depend on the machine, so names and objects are counted."""

import json
import subprocess
import sys
from typing import Any

import pytest

from hetpure.config import PROJECT_ROOT

NEVER = ("tensorboard", "torchattacks", "foolbox", "art", "robustbench", "transformers", "datasets", "pandas")
"""Libraries that an evaluation of the demo's rows does not need."""

STUDIES = (
    "hetpure.studies",
    "hetpure.training",
    "hetpure.verification",
    "hetpure.planning",
    "hetpure.attacks.autoattack",
)

NETWORKS = ("timm", "diffusers", "huggingface_hub", "wandb", "hetpure.evaluation.run")
"""What a config is resolved without."""

START = """
import contextlib, gc, io, json, sys
looked_at = [0]
def count(phase, info):
    if phase == "start":
        looked_at[0] += sum(len(gc.get_objects(generation)) for generation in range(info["generation"] + 1))
gc.callbacks.append(count)
from hetpure.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["evaluate", "--config", "demo.yaml", "--print-config"]) == 0
resolved = list(sys.modules)
from hetpure.config import read_config
from hetpure.evaluation.config import complete
from hetpure.evaluation.resolve import resolve_rows
from hetpure.evaluation.run import evaluation_trainer
rows = resolve_rows(complete(read_config("demo.yaml", ["output=" + sys.argv[1]])), evaluation_trainer({})).rows
assert len(rows) == 3
counts = {"looked at": looked_at[0], "kept": len(gc.get_objects())}
print(json.dumps({"resolved": resolved, "built": list(sys.modules), **counts}))
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Modules after the demo's config is resolved and after its rows are built; objects that the collector saw."""
    command = [sys.executable, "-c", START, str(tmp_path_factory.mktemp("start"))]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT_ROOT).stdout)


def test_a_config_is_resolved_without_libraries_of_networks(start: dict[str, Any]) -> None:
    assert [name for name in (*NEVER, *STUDIES, *NETWORKS) if name in start["resolved"]] == []


def test_rows_are_built_without_what_they_do_not_use(start: dict[str, Any]) -> None:
    assert [name for name in (*NEVER, *STUDIES) if name in start["built"]] == []


def test_imports_are_not_collected(start: dict[str, Any]) -> None:
    assert start["kept"] > 300_000
    assert start["looked at"] < start["kept"] / 2  # with collection: seven times as many as are kept
