"""Public wide residual networks: small ones in each layout, against numbers that the originals computed."""

from pathlib import Path

import pytest
import timm
import torch

from hetpure.errors import ConfigError
from hetpure.models.activations import block_activations, default_blocks
from hetpure.models.classifiers import Classifier, build_classifier
from hetpure.models.wide_resnet import WideResNet
from tests.models.layouts import images, layout, samples, weights

SMALL = {"depth": 16, "width": 2}
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
LAYOUTS = {"wrn_robustbench": "wrn28_10", "wrn_deepmind": "dm_wrn28_10", "wrn_szagoruyko": "wrn28_10"}


def x() -> torch.Tensor:
    return images(2, 3, 32, 32).sigmoid()


def load(tmp_path: Path, name: str, wrapper: str | None = None, prefix: str = "") -> Classifier:
    state = {prefix + key: value for key, value in weights(layout(name)["shapes"]).items()}
    torch.save({wrapper: state, "epoch": 200} if wrapper else state, tmp_path / "c.pt")
    return build_classifier(LAYOUTS[name], str(tmp_path / "c.pt"), arguments=dict(SMALL))


@pytest.mark.parametrize(
    ("name", "wrapper", "prefix"),
    [
        ("wrn_robustbench", "state_dict", ""),
        ("wrn_robustbench", None, "module."),
        ("wrn_deepmind", None, ""),
        ("wrn_deepmind", "model", "module.model."),
        ("wrn_deepmind", "model_state_dict", "module.0."),  # DiffPure's 70-16
        ("wrn_szagoruyko", "params", ""),
    ],
)
def test_logits(tmp_path: Path, name: str, wrapper: str | None, prefix: str) -> None:
    logits = load(tmp_path, name, wrapper, prefix)(x())
    torch.testing.assert_close(logits.flatten().tolist(), layout(name)["logits"], **TOLERANCE)


@pytest.mark.parametrize("name", ["wrn_robustbench", "wrn_deepmind"])
def test_the_papers_four_blocks(tmp_path: Path, name: str) -> None:
    classifier = load(tmp_path, name)
    found = block_activations(classifier, x(), default_blocks(classifier))
    assert [f.shape[1:] for f in found] == [(32, 32, 32), (64, 16, 16), (128, 8, 8), (128, 8, 8)]
    torch.testing.assert_close([samples(f) for f in found], layout(name)["blocks"], **TOLERANCE)


def test_features_are_what_the_modules_give() -> None:
    network = timm.create_model("dm_wrn28_10", **SMALL).eval()
    assert isinstance(network, WideResNet)
    features = block_activations(Classifier(network, [0.0], [1.0]), x(), [0, 1, 2, 3])
    before = network.conv1(x())
    for group, feature in enumerate(features[:3]):
        *blocks, last = network.get_submodule(f"layer{group + 1}").children()
        for block in blocks:
            before = block(before)
        first = last.act1(last.bn1(before))
        padded = torch.nn.functional.pad(first, last.padding)
        assert torch.equal(feature, last.act2(last.bn2(last.conv1(padded))))
        before = last(before)
    assert torch.equal(features[3], network.forward_features(x()))
    assert torch.equal(network.forward_head(features[3]), network(x()))
    assert [f.shape[1] for f in features] == [info["num_chs"] for info in network.feature_info]
    assert [x().shape[2] // f.shape[2] for f in features] == [info["reduction"] for info in network.feature_info]
    timms = timm.create_model("dm_wrn28_10", features_only=True, **SMALL).eval()
    assert [f.shape for f in timms(x())] == [f.shape for f in features]


def test_sizes() -> None:
    with torch.device("meta"):
        counts = {name: sum(p.numel() for p in timm.create_model(name).parameters()) for name in
                  ("wrn28_10", "dm_wrn28_10", "dm_wrn70_16")}  # fmt: skip
    # The first paper says 36.5 M for 28-10; Gowal et al. 267 M for 70-16.
    assert counts == {"wrn28_10": 36_479_194, "dm_wrn28_10": 36_479_194, "dm_wrn70_16": 266_796_506}


def test_normalisation_is_the_layouts_own() -> None:
    standard, deepmind = (build_classifier(n, "random", arguments=dict(SMALL)) for n in ("wrn28_10", "dm_wrn28_10"))
    assert torch.equal(standard.normalize(x()), x())
    assert deepmind.mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
    assert deepmind.std.flatten().tolist() == pytest.approx([0.2471, 0.2435, 0.2616])


def test_another_layouts_weights_do_not_load_silently(tmp_path: Path) -> None:
    state = weights(layout("wrn_robustbench")["shapes"])
    torch.save({**state, "block1.layer.0.unknown": torch.zeros(1)}, tmp_path / "c.pt")
    with pytest.raises(ConfigError, match=r"unexpected layer1\.0\.unknown"):
        build_classifier("wrn28_10", str(tmp_path / "c.pt"), arguments=dict(SMALL))
    with pytest.raises(ConfigError, match=r"classifier\.arguments\.depth is 17; accepted: 6 n \+ 4"):
        build_classifier("wrn28_10", arguments={"depth": 17})
