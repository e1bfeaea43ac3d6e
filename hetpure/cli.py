"""What the three commands share: arguments in, one clear line on bad input, exit codes."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from omegaconf import DictConfig

from hetpure.config import config_names, read_config, to_yaml
from hetpure.errors import BAD_INPUT, INTERRUPTED, STOPPED, ConfigError, RunError

Raw = dict[str, object]
Config = TypeVar("Config", bound=DictConfig)

# Threads that spin long while they wait cost a shared machine dearly: two processes on two cores ran 25 times slower.
# Threads that never spin cost small networks half their speed. GNU OpenMP reads this when torch is first imported,
# which the commands do after this module.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main(
    complete: Callable[[dict], DictConfig],
    run: Callable[[DictConfig], None],
    description: str,
    arguments: Sequence[str] | None = None,
    plan: Callable[[DictConfig, float, list[str]], object] | None = None,
) -> int:
    """Runs a command.

    Args:
        complete: checks a raw config and fills it in.
        run: does the work that a complete config describes.
        description: what ``--help`` says.
        arguments: command line, ``sys.argv`` by default.
        plan: for a command that offers ``--plan``: says what the config will cost, given seconds to measure for and
            rates as written.

    Returns:
        Exit code: 0, 2 for bad input and 3 for a run that cannot go on (one line on stderr), 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="configs: " + ", ".join(config_names()),
    )
    parser.add_argument("--config", required=True, metavar="NAME.yaml", help="a file, or a bare name in configs/")
    parser.add_argument("--print-config", action="store_true", help="show the resolved config and stop")
    if plan is not None:
        parser.add_argument("--plan", action="store_true", help="show what it will cost, run and write nothing")
        parser.add_argument("--plan-seconds", type=float, default=20.0, help="that --plan measures for (20)")
        parser.add_argument(
            "--plan-rate",
            action="append",
            default=[],
            metavar="NETWORK=RATE,RATE",
            help="other hardware: images a second through one call of the denoiser (or classifier), without and with "
            "the gradient of its input, such as denoiser=443,246",
        )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as attack.eps=8/255 or trainer.devices=2"
    )
    options = parser.parse_intermixed_args(arguments)
    # Libraries' advice on things the project decided (no workers for in-memory data, say) would bury its own lines.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    try:
        raw = read_config(options.config, options.overrides)
        raw.setdefault("output", f"runs/{options.config.rsplit('/', 1)[-1].removesuffix('.yaml')}")
        config = complete(raw)
        if options.print_config:
            print(to_yaml(config), end="")
            return 0
        if plan is not None and options.plan:
            plan(config, options.plan_seconds, options.plan_rate)
            return 0
        run(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("\ninterrupted: what was finished is kept; the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    return 0
