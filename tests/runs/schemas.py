"""The schemas of the run folder, for tests that write one."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from jsonschema import Draft202012Validator


@cache
def validator(name: str) -> Draft202012Validator:
    """Of ``record`` or ``results``."""
    schema = json.loads((files("hetpure.runs") / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def check_folder(folder: Path) -> int:
    """Validates every whole line of records and ``results.json`` in a run's folder; how many lines there are."""
    lines = [
        line
        for file in folder.rglob("samples-*.jsonl")
        for line in file.read_text().splitlines(keepends=True)
        if line.endswith("\n")  # a kill may have cut the last one short
    ]
    for line in lines:
        validator("record").validate(json.loads(line))
    if (folder / "run.json").exists() and (folder / "results.json").exists():  # else of version 1
        validator("results").validate(json.loads((folder / "results.json").read_text()))
    return len(lines)
