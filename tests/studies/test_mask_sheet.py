from pathlib import Path

import pytest
import torch
from PIL import Image

from hetpure.cli import main
from hetpure.purification.mask import AttentionMask
from hetpure.studies.masks import mask_panels, selection_of
from tests.toys import images, tiny_classifier


def command(tmp_path: Path, *overrides: str) -> int:
    return main(["masks", "--config", "digits.yaml", f"output={tmp_path}", "pictures=2", *overrides])


def test_panels_are_what_algorithm_2_makes() -> None:
    mask, x = AttentionMask(tiny_classifier(), ["block1", "block2"], tau=0.7), images(3)
    panels = mask_panels(mask, x)
    assert list(panels) == ["image", "attention map", "block block1", "block block2", "mask", "overlay"]
    assert torch.equal(panels["attention map"], torch.maximum(panels["block block1"], panels["block block2"]))
    inside = (panels["mask"] == 1).expand_as(x)
    assert torch.equal(panels["mask"], mask(x)) and 0 < inside.sum() < inside.numel()
    assert torch.equal(panels["overlay"][inside], x[inside])
    assert (panels["overlay"][~inside] < x[~inside]).all()
    assert "block block1" not in mask_panels(AttentionMask(tiny_classifier(), ["block1"]), x)


def test_a_selection_in_words() -> None:
    assert selection_of({"selection": "threshold", "tau": 0.9}) == "tau = 0.9"
    assert selection_of({"selection": "top_fraction", "top_fraction": 0.15}) == "top 15 %"


def test_the_command_draws_a_sheet_without_a_denoiser(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(tmp_path, "denoiser.path=null") == 0
    with Image.open(tmp_path / "masks.png") as sheet:
        assert sheet.width > 400 and sheet.height > 200
    assert "masks cover" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("purifier.name=uniform", "purifier.name is 'uniform', which has no mask; accepted: heterogeneous"),
        ("purifier.tau=2", "purifier.tau"),
        ("purifier.blocks=[9]", "purifier.blocks: stage 9"),
        ("pictures=0", "pictures is 0; accepted: 1 or more"),
    ],
)
def test_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture, override: str, message: str) -> None:
    assert command(tmp_path, override) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
