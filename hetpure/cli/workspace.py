"""Lay out a W&B workspace for this project's evaluations, as a view of a W&B project.

hetpure workspace --entity ENTITY --project hetpure
hetpure workspace --json layout.json      (the layout as a file; no account, no network)
"""

import argparse
import json
from pathlib import Path

from hetpure.errors import ConfigError, RunError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("--entity", help="W&B user or team")
    parser.add_argument("--project", default="hetpure", help="W&B project (%(default)s)")
    parser.add_argument("--name", default="hetpure", help="name of the view (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the layout here and save nothing on W&B")


def run(options: argparse.Namespace) -> None:
    """Saves the workspace, or writes its layout."""
    if options.json is None and options.entity is None:
        raise ConfigError("--entity", "must be given, or --json FILE")
    from hetpure.config.tracking import has_account
    from hetpure.reports.workspace import layout, specification
    from hetpure.runs.files import one_line

    workspace = layout(options.entity or "", options.project, options.name)
    if options.json is not None:
        try:
            options.json.write_text(json.dumps(specification(workspace), indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"--json {options.json}", one_line(error)) from None
        print(options.json)
        return
    if not has_account():
        raise ConfigError("W&B", "no account is configured; set WANDB_API_KEY or run `wandb login`, or use --json FILE")
    try:
        print(workspace.save().url)
    except Exception as error:  # anything that W&B's client meets on the network
        raise RunError(f"W&B: {one_line(error)[:200]}") from None
