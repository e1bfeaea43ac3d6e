"""Arguments of the subcommands that take a config."""

import argparse
from collections.abc import Callable
from typing import Any, TypeVar

from hetpure.config import read_config, to_yaml

Config = TypeVar("Config")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--config``, ``--print-config`` and the overrides."""
    about = "a file, or a name that `hetpure configs` lists"
    parser.add_argument("--config", required=True, metavar="NAME.yaml", help=about)
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    about = "such as attack.eps=8/255 or trainer.devices=2"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=about)


def resolve(options: argparse.Namespace, complete: Callable[[dict[str, Any]], Config]) -> Config | None:
    """The config with overrides, completed; None where ``--print-config`` printed it instead.

    ``output`` is runs/NAME by default.
    """
    raw = read_config(options.config, options.overrides)
    raw.setdefault("output", f"runs/{options.config.rsplit('/', 1)[-1].removesuffix('.yaml')}")
    config = complete(raw)
    if options.print_config:
        print(to_yaml(config), end="")
        return None
    return config
