"""Draw a sheet of attention masks: hetpure masks --config cifar10_lab.yaml [key=value ...].

For people to judge whether the classifier looks where the object is. Each line is one image of the data: its attention
map (Algorithm 2, before selection), the map of each block alone, the mask, and the mask over the image. It takes an
evaluation's config and needs neither a denoiser nor an attack. `pictures` says how many; writes OUTPUT/masks.png.
"""

import argparse

from hetpure.cli.config_arguments import add_config_arguments as add_arguments
from hetpure.cli.config_arguments import resolve

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> None:
    """Draws the sheet."""
    from hetpure.evaluation.config import complete

    if (config := resolve(options, complete)) is not None:
        from hetpure.studies.masks import draw_mask_sheet

        draw_mask_sheet(config)
