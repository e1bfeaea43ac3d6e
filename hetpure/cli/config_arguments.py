"""Arguments of the subcommands that take a config."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hetpure.config import read_config, to_yaml

Config = TypeVar("Config")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--config``, ``--print-config`` and the overrides."""
    parser.add_argument(
        "--config", required=True, metavar="NAME.yaml", help="a file, or a name that `hetpure configs` lists"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as attack.eps=8/255 or trainer.devices=2"
    )


def read_raw(options: argparse.Namespace) -> dict[str, Any]:
    """The config as written, with overrides; ``output`` is runs/NAME by default.

    Raises:
        ConfigError: for a config that is not there or cannot be read, or a malformed override.
    """
    raw = read_config(options.config, options.overrides)
    raw.setdefault("output", f"runs/{options.config.rsplit('/', 1)[-1].removesuffix('.yaml')}")
    return raw


def resolve(
    options: argparse.Namespace, raw: Mapping[str, Any], complete: Callable[[Mapping[str, Any]], Config]
) -> Config | None:
    """The complete config; None where ``--print-config`` printed it instead.

    Raises:
        ConfigError: names the key, its value and what is accepted.
    """
    config = complete(raw)
    if options.print_config:
        print(to_yaml(config), end="")
        return None
    return config
