"""The ImageNet path on real pictures with a real classifier. Both lie beside the checkout, and neither ships."""

import io
import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from hetpure.cli import main
from hetpure.data import ImageDataModule
from hetpure.data.hub import open_hub
from hetpure.models.classifiers import Classifier, build_classifier
from hetpure.purification.mask import AttentionMask

SHARED = Path(__file__).parents[3] / "shared"
IMAGES = SHARED / "data" / "imagenet-sample"
WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
COUNT = 12

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not (IMAGES.is_dir() and WEIGHTS.is_file()), reason=f"needs {IMAGES} and {WEIGHTS}"),
]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return build_classifier("tf_efficientnet_lite0", str(WEIGHTS), image_size=224)


@pytest.fixture(scope="module")
def data() -> ImageDataModule:
    return ImageDataModule(
        "hfds/ILSVRC/imagenet-1k", str(IMAGES), test_split="validation", image_size=256, subset=COUNT, batch_size=COUNT
    ).prepare()


@pytest.fixture(scope="module")
def batch(data: ImageDataModule) -> dict[str, torch.Tensor]:
    return next(iter(data.test_dataloader()))


def test_pictures_are_256_and_classes_have_words(data: ImageDataModule, batch: dict[str, torch.Tensor]) -> None:
    assert (data.image_shape, data.num_classes) == ((3, 256, 256), 1000)
    assert data.class_names is not None and data.class_names[0] == "tench"
    assert batch["image"].shape == (COUNT, 3, 256, 256)


def test_the_classifier_sees_what_timm_would_show_it(
    classifier: Classifier, data: ImageDataModule, batch: dict[str, torch.Tensor]
) -> None:
    transform = create_transform(**resolve_model_data_config(classifier.network))
    as_files = [Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy()) for x in batch["image"]]
    expected = torch.stack([torch.as_tensor(transform(image)) for image in as_files])
    # Of a 256x256 image, 224 are cut from the centre: nothing is resized, so nothing but rounding differs.
    torch.testing.assert_close(classifier.normalize(batch["image"]), expected, rtol=0.0, atol=1e-6)
    # From the original files timm resizes with bicubic weights, the datamodule with bilinear ones.
    read = open_hub("ILSVRC/imagenet-1k", str(IMAGES), "validation")[0]
    originals = [Image.open(io.BytesIO(read(i))).convert("RGB") for i in batch["index"].tolist()]
    ours = classifier(batch["image"]).argmax(1)
    theirs = classifier.network(torch.stack([torch.as_tensor(transform(image)) for image in originals])).argmax(1)
    assert (ours == theirs).sum() >= COUNT - 1
    assert (ours == batch["label"]).float().mean() >= 0.7  # 80 of all 100


def test_masks_of_real_pictures(classifier: Classifier, batch: dict[str, torch.Tensor]) -> None:
    mask = AttentionMask(classifier, selection="top_fraction", top_fraction=0.15)
    found = mask(batch["image"])
    assert found.sum((1, 2, 3)).tolist() == [int(0.15 * 256 * 256)] * COUNT
    assert found[..., :16, :].sum() == found[..., :, :16].sum() == 0  # outside the classifier's crop
    assert found[..., 240:, :].sum() == found[..., :, 240:].sum() == 0
    # What the last block holds for the object is most of the mask, not the texture of the early ones.
    last = AttentionMask(classifier, [-1], selection="top_fraction", top_fraction=0.15)(batch["image"])
    assert ((found * last).sum((1, 2, 3)) / last.sum((1, 2, 3))).mean() > 0.6


def test_the_lab_config_runs_end_to_end(tmp_path: Path) -> None:
    torch.manual_seed(0)
    UNet2DModel(
        sample_size=256,
        block_out_channels=(4, 4, 8),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=2,
        add_attention=False,
    ).save_pretrained(tmp_path / "denoiser")
    settings = [
        f"data.root={IMAGES}", f"classifier.weights={WEIGHTS}", f"denoiser.path={tmp_path / 'denoiser'}",
        f"output={tmp_path / 'run'}", "ensemble.size=2", "attack.steps=1", "attack.eot=1", "pictures=1",
        "chunk_size=2", "wandb.mode=disabled",
    ]  # fmt: skip
    assert main(["evaluate", "--config", "imagenet_lab.yaml", *settings]) == 0
    rows = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "heterogeneous" in json.dumps(rows) and (tmp_path / "run" / "heterogeneous" / "pictures.png").is_file()
