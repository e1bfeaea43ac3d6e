"""``evaluate.py`` with a pause in every denoiser call: few images keep its processes busy for a while."""

import sys
import time

from torch import Tensor

from hetpure.cli import run_command
from hetpure.models.denoisers import DiffusersDenoiser

SECONDS = 0.03


def pause_in_calls(seconds: float) -> None:
    """Every denoiser call of this process takes so much longer."""
    real = DiffusersDenoiser.forward

    def slow(self: DiffusersDenoiser, x: Tensor, t: int) -> Tensor:
        time.sleep(seconds)
        return real(self, x, t)

    DiffusersDenoiser.forward = slow


if __name__ == "__main__":
    pause_in_calls(SECONDS)
    sys.exit(run_command("evaluate"))
