"""The demo's config with rows of a test's own."""

from pathlib import Path
from typing import Any

import yaml

from hetpure.cli import main
from hetpure.config import read_config
from tests.runs.schemas import check_folder


def evaluate(output: Path, rows: dict[str, Any], *overrides: str) -> int:
    """``evaluate.py`` in this process, with the demo's networks and data; its exit code."""
    raw = read_config("demo.yaml", []) | {"rows": rows}
    output.parent.mkdir(exist_ok=True)
    file = output.parent / "job.yaml"
    file.write_text(yaml.safe_dump(raw))
    settings = [f"output={output}", "threads=1", "pictures=0", "wandb.mode=disabled", *overrides]
    code = main(["evaluate", "--config", str(file), *settings])
    check_folder(output)
    return code
