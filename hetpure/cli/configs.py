"""List the configs that --config takes by name, with a line each."""

import argparse
import re
import textwrap
from fnmatch import fnmatch

from hetpure.config import CONFIG_DIR, config_names

GROUPS = {
    "*/lab/*": "Sweeps at a size that two cores finish",
    "sweeps/*": "Sweeps: accuracy over one or two keys",
    "tables/lab*": "Tables at a size that two cores finish",
    "tables/*": "The paper's tables, whole",
    "adversarially_trained/*": "Adversarially trained classifiers, a row of the paper's tables each",
    "*_denoiser.yaml *_adbm.yaml *_flowpure.yaml *_consistency.yaml svhn.yaml": "Training a denoiser (train-diffusion)",
    "*_classifier.yaml *_wrn28_10.yaml": "Training a classifier (train-classifier)",
    "*_pgd.yaml *_bpda.yaml *_autoattack.yaml": "Single rows of the paper's tables",
    "*_recommended.yaml": "The paper's defenses under the recommended protocol",
    "*": "Comparisons on data and networks that are included or small",
}
"""Group of a config by the first patterns that its name matches one of."""

WIDTH = 100
"""Characters of a description."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments."""
    parser.add_argument("pattern", nargs="?", default="", help="list only names that contain this")


def run(options: argparse.Namespace) -> None:
    """Prints the list."""
    groups: dict[str, list[str]] = {title: [] for title in reversed(GROUPS.values())}
    for name in config_names():
        if options.pattern in name:
            matching = (title for patterns, title in GROUPS.items() if any(fnmatch(name, p) for p in patterns.split()))
            groups[next(matching)].append(name)
    print(f"configs in {CONFIG_DIR}, for --config NAME:")
    for title, names in groups.items():
        if names:
            print(f"\n{title}")
        width = max(map(len, names), default=0)
        for name in names:
            print(f"  {name:{width}}  {description(name)}")


def description(name: str) -> str:
    """The first sentence of a config's leading comment."""
    comment = []
    for line in (CONFIG_DIR / name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.startswith("#   "):  # an indented line is a command
            break
        comment.append(line[2:].strip())
    sentence = re.split(r"\. (?=[A-Z])", " ".join(comment), maxsplit=1)[0].rstrip(".:")
    return textwrap.shorten(sentence, WIDTH, placeholder=" ..")
