import pytest
import timm
import torch

from hetpure.models.resnet import CifarResNet

LAYERS = ("act1", "layer1", "layer2", "layer3")


@pytest.fixture
def network() -> CifarResNet:
    network = timm.create_model("cifar_resnet8", num_classes=7)
    assert isinstance(network, CifarResNet)
    return network.eval()


def test_size_of_the_papers_resnet20():
    # Table 6 of He et al. says 0.27 M; here with 1x1 shortcuts.
    assert sum(p.numel() for p in timm.create_model("cifar_resnet20").parameters()) == 272_474


@torch.no_grad()
def test_intermediates_are_what_the_modules_give(network: CifarResNet):
    seen: dict[str, torch.Tensor] = {}
    for name in LAYERS:
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    x = torch.randn(2, 3, 16, 16)
    logits = network(x)
    hooked = [seen[name].clone() for name in LAYERS]
    final, features = network.forward_intermediates(x)
    assert [f.shape[1:] for f in features] == [(16, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert all(torch.equal(a, b) for a, b in zip(hooked, features, strict=True))
    assert torch.equal(final, features[-1]) and all(float(f.min()) >= 0 for f in features)
    assert torch.equal(network.forward_head(final), logits) and logits.shape == (2, 7)


def test_indices(network: CifarResNet):
    x = torch.randn(1, 3, 16, 16)
    every = network.forward_intermediates(x, intermediates_only=True)
    last_two = network.forward_intermediates(x, indices=2, intermediates_only=True)
    chosen = network.forward_intermediates(x, indices=[0, 2], intermediates_only=True, stop_early=True)
    assert all(torch.equal(a, b) for a, b in zip(every[2:], last_two, strict=True))
    assert all(torch.equal(a, b) for a, b in zip([every[0], every[2]], chosen, strict=True))
    with pytest.raises(ValueError, match="NCHW"):
        network.forward_intermediates(x, output_fmt="NLC")


def test_timms_features_only(network: CifarResNet):
    features = timm.create_model("cifar_resnet8", features_only=True).eval()
    features.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(1, 3, 16, 16)
    expected = network.forward_intermediates(x, intermediates_only=True)
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
    assert network.prune_intermediate_layers([0, 1]) == [0, 1]
    assert len(network.layer2) == 0
