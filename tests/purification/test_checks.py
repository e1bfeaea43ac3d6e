"""The checks find the mistakes that they look for; each is planted in a purifier that is right otherwise."""

from pathlib import Path

import pytest

from hetpure.cli import main

SOURCE = """
import torch
from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit


class Mine(Purifier):
    def __init__(self, denoiser: Denoiser, t: float = 0.1, mistake: str = "") -> None:
        super().__init__()
        self.denoiser, self.schedule, self.mistake = denoiser, denoiser.schedule, mistake
        self.t = round(t * self.schedule.T)

    @property
    def network_calls(self) -> int:
        return 2 if self.mistake == "calls" else 1

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        x0 = to_signed(x)
        noise = draws.normal_like(x0, "diffuse", self.t)
        if self.mistake == "global":
            noise = torch.randn_like(x0)
        if self.mistake == "constant":
            noise = torch.zeros_like(x0)
        x_t = self.schedule.diffuse(x0, self.t, noise)
        out = self.schedule.predict_x0(x_t, self.t, self.denoiser(x_t, self.t))
        if self.mistake == "batch":
            out = out - out.mean()
        if self.mistake == "detached":
            out = out + 0.5 * x0.detach() * x0.abs()
        if self.mistake == "range":
            return out * 9
        if self.mistake == "raises":
            raise KeyError("x")
        return to_unit(out)

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        views = super().views(x, draws)
        return {"result": views["purified"]} if self.mistake == "views" else views
"""


def check(folder: Path, monkeypatch: pytest.MonkeyPatch, *settings: str) -> int:
    (folder / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(folder)
    return main(["check", "mine.py:Mine", *settings])


def test_a_right_purifier_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path, monkeypatch, "t=0.05") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(line.startswith("ok ") for line in lines)


@pytest.mark.parametrize(
    ("mistake", "failed"),
    [
        ("calls", {"network calls"}),
        ("global", {"randomness", "rows", "views", "gradient"}),
        ("constant", {"randomness"}),
        ("batch", {"rows"}),
        ("detached", {"gradient"}),
        ("range", {"images", "views"}),
        ("views", {"views"}),
        ("raises", {"images", "randomness", "rows", "calls", "views", "gradient"}),
    ],
)
def test_a_mistake_is_found(
    mistake: str, failed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path, monkeypatch, f"mistake={mistake}") == 4
    lines = capsys.readouterr().out.splitlines()
    assert {line[8:24].strip() for line in lines if line.startswith("FAILED")} == failed


def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path, monkeypatch, "tt=0.05") == 2
    assert capsys.readouterr().err == (
        "error: purifier.tt: unknown key; accepted: name, preset, t, mistake; did you mean t?\n"
    )
    assert main(["check", "mine.py:Mime"]) == 2
    assert capsys.readouterr().err == "error: purifier.name: mine.py defines no Mime; did you mean Mine?\n"
    assert main(["check", "other.py:Mine"]) == 2
    assert capsys.readouterr().err == "error: purifier.name is 'other.py:Mine', there is no such file\n"
    assert main(["check", "uniform", "t=2"]) == 2
    assert capsys.readouterr().err.startswith("error: purifier.t is 2")
