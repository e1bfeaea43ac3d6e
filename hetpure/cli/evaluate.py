"""Evaluate purifiers under adaptive attacks: hetpure evaluate --config demo.yaml [key=value ...].

Clean and adversarial accuracy of every row of the config, with pictures, in the folder `output` (runs/NAME by default).
Run the same command again to continue an interrupted evaluation. Rows are independent: --rows evaluates some of them
now, in the folder of the whole config; the others can be evaluated later or elsewhere.
--plan estimates the cost and runs nothing. --print-config shows every key with its value.
"""

import argparse

from hetpure.cli import begin_work
from hetpure.cli.config_arguments import add_config_arguments, resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    add_config_arguments(parser)
    add_rows_argument(parser)
    parser.add_argument("--plan", action="store_true", help="estimate the cost; run and write nothing")
    add_plan_arguments(parser, "--plan-")


def add_rows_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--rows``."""
    about = "only these rows now (of a table: methods, or METHOD/COLUMN)"
    parser.add_argument("--rows", metavar="NAME[,NAME]", help=about)


def add_plan_arguments(parser: argparse.ArgumentParser, prefix: str) -> None:
    """Adds ``PREFIXseconds`` and ``PREFIXrate``, of a plan's measurements."""
    about = "time to measure for (%(default)s)"
    parser.add_argument(f"{prefix}seconds", dest="plan_seconds", type=float, default=20.0, help=about)
    about = "other hardware: images a second through one call of the denoiser (or classifier), without and with "
    about += "the gradient of its input, such as denoiser=443,246"
    name, form = f"{prefix}rate", "NETWORK=RATE,RATE"
    parser.add_argument(name, dest="plan_rate", action="append", default=[], metavar=form, help=about)


def run(options: argparse.Namespace) -> None:
    """Evaluates, or plans."""
    from hetpure.evaluation.config import complete
    from hetpure.evaluation.expand_table import select_rows

    names = [] if options.rows is None else options.rows.split(",")
    config = resolve(options, lambda raw: complete(raw, names))
    if config is None:
        return
    only = select_rows(config.rows, config.table, names) if names else None
    if options.plan:
        from hetpure.planning.plan import plan

        others = [name for name in config.rows if only is not None and name not in only]
        plan(config.without_rows(others), options.plan_seconds, options.plan_rate)
    else:
        from hetpure.evaluation.run import run
        from hetpure.planning.auto_settings import choose_auto_settings

        begin_work()
        run(config, only, choose_auto=choose_auto_settings)
