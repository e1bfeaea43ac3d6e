"""Clean pictures: hetpure purify photo.jpg folder --config cifar10_lab.yaml --output cleaned [key=value ...].

Writes each picture, once purified, as a PNG named after its file, and a sheet with the first ones before and after
(`pictures` says how many), and prints what the classifier sees in them before and after. Existing files stay as they
are. A picture of a size that the denoiser does not take is resized. One that cannot be read is named, the others are
cleaned, and the exit code is 3.
"""

import argparse
from pathlib import Path

from hetpure.cli import begin_work
from hetpure.config import exists, expand_home, read_config
from hetpure.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a file, or a folder with all below it")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as purifier.t_large=0.3 or seed=1")
    parser.add_argument("--config", required=True, metavar="NAME.yaml", help="an evaluation's config")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the PNGs and the sheet")
    parser.add_argument("--row", metavar="NAME", help="which row of the config purifies; by default the last that does")


def run(options: argparse.Namespace) -> None:
    """Cleans the pictures."""
    arguments = [*options.pictures, *options.overrides]
    overrides = [text for text in arguments if "=" in text and not exists(Path(text))]
    if any(text.startswith("output=") for text in overrides):
        raise ConfigError("output", "is what --output says; leave it out")
    raw = read_config(options.config, overrides)
    from hetpure.evaluation.picture_files import find_pictures, make_folder

    files = find_pictures([expand_home(text) for text in arguments if text not in overrides], options.output)
    from hetpure.evaluation.config import complete

    try:
        config = complete({**raw, "output": str(options.output)}, [] if options.row is None else [options.row])
    except ConfigError as error:
        error.key = error.key.replace("--rows", "--row")  # evaluate's option
        raise
    make_folder(options.output)
    from hetpure.evaluation.purify_pictures import purify_pictures

    begin_work()
    purify_pictures(config, options.row, files)
