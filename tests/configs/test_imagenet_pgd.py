"""``imagenet_pgd.yaml`` from pictures to table, with small stand-ins for its networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import save_file

from hetpure.cli import main
from hetpure.runs.store import RecordStore


@pytest.fixture
def stand_ins(tmp_path: Path) -> list[str]:
    """Two pictures of two classes, of sizes that no network takes; a denoiser; a classifier; the overrides for them."""
    for name, size in (("n01440764", (300, 280)), ("n01443537", (257, 400))):
        (tmp_path / "pictures" / "val" / name).mkdir(parents=True)
        ramp = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3).astype(np.uint8)
        Image.fromarray(ramp).save(tmp_path / "pictures" / "val" / name / "a.png")
    unet = UNet2DModel(
        sample_size=256,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,  # 128x128 tokens would be most of the test's time
    )
    unet.save_pretrained(tmp_path / "denoiser")
    save_file(timm.create_model("resnet10t", num_classes=2).state_dict(), tmp_path / "classifier.safetensors")
    return [
        f"data={{name: folder/own_classes, root: {tmp_path}/pictures, test_split: val, subset: null}}",
        "classifier.name=resnet10t",
        "classifier.arguments.num_classes=2",
        "classifier.image_size=224",
        f"classifier.weights={tmp_path}/classifier.safetensors",
        "denoiser.format=diffusers",
        f"denoiser.path={tmp_path}/denoiser",
        "purifier.grid_size=10",
        "attack.steps=1",
        "attack.eot=1",
        "ensemble.size=1",
        "trainer.accelerator=cpu",
        "wandb.mode=disabled",
    ]


def test_two_pictures_give_a_table(stand_ins: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    arguments = ["--config", "imagenet_pgd.yaml", f"output={output}", "chunk_size=2", *stand_ins]
    assert main(["evaluate", *arguments]) == 0
    (row,) = json.loads((output / "results.json").read_text())["rows"]
    assert (row["method"], row["images"], row["total"]) == ("heterogeneous", 2, 2)
    assert "heterogeneous" in capsys.readouterr().out
    store = RecordStore(output / "heterogeneous")
    records = store.read()
    assert [record.index for record in records] == [0, 1]
    for record in records:
        image = store.adversarial(record)
        assert image is not None and image.shape == (3, 256, 256)
    assert (output / "heterogeneous" / "pictures.png").is_file()
