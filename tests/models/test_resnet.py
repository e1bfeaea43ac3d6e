import pytest
import timm
import torch
from torch import nn

from hetpure.models.activations import block_activations
from hetpure.models.classifiers import Classifier
from hetpure.models.resnet import CifarResNet


@pytest.fixture
def network() -> CifarResNet:
    network = timm.create_model("cifar_resnet8", num_classes=7)
    assert isinstance(network, CifarResNet)
    return network.eval()


def test_size_of_the_papers_resnet20():
    # Table 6 of He et al. says 0.27 M; here with 1x1 shortcuts.
    assert sum(p.numel() for p in timm.create_model("cifar_resnet20").parameters()) == 272_474


@torch.no_grad()
def test_features_are_what_the_modules_give(network: CifarResNet):
    x = torch.rand(2, 3, 16, 16)
    features = block_activations(Classifier(network, [0.0], [1.0]), x, [0, 1, 2, 3])
    assert [f.shape[1:] for f in features] == [(16, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    expected = network.act1(network.bn1(network.conv1(x)))
    for feature, stage in zip(features, [nn.Identity(), network.layer1, network.layer2, network.layer3], strict=True):
        expected = stage(expected)
        assert torch.equal(feature, expected) and float(feature.min()) >= 0
    assert torch.equal(features[3], network.forward_features(x))
    assert torch.equal(network.forward_head(features[3]), network(x)) and network(x).shape == (2, 7)


@torch.no_grad()
def test_sides_do_not_pass_for_channels(network: CifarResNet):
    """A stage's layout is known, even where rounded sides fit the image's proportion less well than channels do."""
    (feature,) = block_activations(Classifier(network, [0.0], [1.0]), torch.rand(1, 3, 34, 17), [2])
    assert feature.shape[1:] == (32, 17, 9)


@torch.no_grad()
def test_timms_features_only(network: CifarResNet):
    features = timm.create_model("cifar_resnet8", features_only=True).eval()
    features.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("fc.")})
    x = torch.rand(1, 3, 16, 16)
    expected = block_activations(Classifier(network, [0.0], [1.0]), x, [0, 1, 2, 3])
    assert all(torch.equal(a, b) for a, b in zip(expected, features(x), strict=True))
    assert features.feature_info.channels() == [16, 16, 32, 64]
    assert features.feature_info.reduction() == [1, 1, 2, 4]


def test_behaves_as_a_timm_model(network: CifarResNet):
    assert "cifar_resnet20" in timm.list_models("cifar_*")
    assert timm.create_model("cifar_resnet8", in_chans=1, widths=(8, 8, 8))(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert network.pretrained_cfg["input_size"] == (3, 32, 32)
    network.reset_classifier(3)
    assert network(torch.randn(1, 3, 16, 16)).shape == (1, 3)
    network.reset_classifier(0)
    assert network(torch.randn(1, 3, 16, 16)).shape == (1, 64)
