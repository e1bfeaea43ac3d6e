import pytest
import timm
import torch
from torch import Tensor, nn

from hetpure.errors import ConfigError
from hetpure.models.activations import block_activations, check_blocks, default_blocks
from hetpure.models.classifiers import Classifier
from tests.toys import TinyNetwork, images, tiny_classifier


def hooks(network: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) + len(m._backward_pre_hooks)
        for m in network.modules()
    )


def hooked(network: nn.Module, z: Tensor, names: list[str]) -> list[Tensor]:
    """The reference: plain forward hooks."""
    seen: dict[str, Tensor] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out.clone()})
        )
        for name in names
    ]
    with torch.no_grad():
        network(z)
    for handle in handles:
        handle.remove()
    return [seen[name] for name in names]


@pytest.fixture(scope="module")
def resnet() -> Classifier:
    return Classifier(timm.create_model("resnet10t", num_classes=10), [0.5] * 3, [0.2] * 3).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vit() -> Classifier:
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=5, num_heads=2, num_classes=10
    )
    return Classifier(network, [0.5] * 3, [0.2] * 3).eval().requires_grad_(False)


def test_a_timm_cnn_by_its_own_interface(resnet: Classifier) -> None:
    """The paper's four blocks of a ResNet: the outputs of layer1..layer4, each after its last activation."""
    x = images(2, 3, 32)
    assert default_blocks(resnet) == [1, 2, 3, 4]
    found = block_activations(resnet, x, default_blocks(resnet))
    expected = hooked(resnet.network, (x - 0.5) / 0.2, ["layer1", "layer2", "layer3", "layer4"])
    assert [tuple(a.shape[2:]) for a in found] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert a.min() >= 0  # after the ReLU


def test_stages_come_in_the_order_asked_and_count_from_the_end(resnet: Classifier) -> None:
    x = images(1, 3, 32)
    all_four = block_activations(resnet, x, [1, 2, 3, 4])
    again = (all_four[3], all_four[1], all_four[1])
    for found, expected in zip(block_activations(resnet, x, [-1, 2, 2]), again, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_timm_vit_by_its_own_interface(vit: Classifier) -> None:
    x = images(2, 3, 32)
    assert default_blocks(vit) == [1, 2, 3, 4]
    found = block_activations(vit, x, [1, 4])
    tokens = hooked(vit.network, (x - 0.5) / 0.2, ["blocks.1", "blocks.4"])
    for a, b in zip(found, tokens, strict=True):
        assert a.shape == (2, 24, 4, 4)
        grid = b[:, 1:].reshape(2, 4, 4, 24).permute(0, 3, 1, 2)  # behind the class token, row by row
        torch.testing.assert_close(a, grid, rtol=1e-5, atol=1e-5)


def test_vit_blocks_by_name_are_laid_out_on_their_grid(vit: Classifier) -> None:
    x = images(2, 3, 32)
    by_name = block_activations(vit, x, ["blocks.4", "blocks.1"])
    by_stage = block_activations(vit, x, [4, 1])
    for a, b in zip(by_name, by_stage, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def swin() -> Classifier:
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=2, embed_dim=8, depths=(1,) * 4, num_heads=(1,) * 4,
        num_classes=10,
    )  # fmt: skip
    return Classifier(network, [0.5] * 3, [0.2] * 3).eval().requires_grad_(False)


def test_channels_last_modules_by_name_are_turned(swin: Classifier) -> None:
    """Swin's layers give (B, H, W, C): the first (B, 8, 8, 8), where only the network's own word decides."""
    x = images(2, 3, 32)
    by_stage = block_activations(swin, x, [0, 1, 2, 3])
    assert [tuple(a.shape[1:]) for a in by_stage] == [(8, 8, 8), (16, 4, 4), (32, 2, 2), (64, 1, 1)]
    by_name = block_activations(swin, x, ["layers.0", "layers.1", "layers.2", "layers.3"])
    for a, b in zip(by_name, by_stage, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_channels_last_is_told_by_the_input_s_proportions() -> None:
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.movedim(1, -1)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.straight, self.turned = nn.Identity(), Turned()

        def forward(self, x: Tensor) -> Tensor:
            return self.turned(self.straight(x)).flatten(1)

    for shape in ((2, 3, 8, 8), (2, 16, 8, 8), (2, 1, 8, 8), (2, 3, 6, 9), (2, 6, 6, 9)):
        x = torch.rand(shape)
        for found in block_activations(Classifier(Network(), [0.0], [1.0]), x, ["straight", "turned"]):
            assert torch.equal(found, x), shape


def test_any_module_by_block_names() -> None:
    classifier = tiny_classifier()
    x = images(2)
    found = block_activations(classifier, x, ["block2", "block1"])
    expected = hooked(classifier.network, (x - 0.4) / 0.3, ["block2", "block1"])
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_a_network_with_feature_info_alone_is_read_by_its_module_names() -> None:
    network = TinyNetwork()
    network.feature_info = [{"module": "block1"}, {"module": "block2"}]  # pyright: ignore
    classifier = Classifier(network, [0.0], [1.0])
    assert default_blocks(classifier) == [0, 1]
    x = images(1)
    torch.testing.assert_close(block_activations(classifier, x, [1])[0], network.block2(network.block1(x)))


def test_blocks_that_give_tuples_count_by_their_first() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return 2 * x, None

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.pair(x)[0].flatten(1)

    x = images(1)
    assert torch.equal(block_activations(Classifier(Network(), [0.0], [1.0]), x, ["pair"])[0], 2 * x)


@pytest.mark.parametrize("which", ["named", "stages"])
def test_hooks_never_leak(resnet: Classifier, which: str) -> None:
    blocks: list = ["layer1", "layer2"] if which == "named" else [1, 2]
    before = hooks(resnet.network)
    for _ in range(3):
        block_activations(resnet, images(1, 3, 32), blocks)
        assert hooks(resnet.network) == before


def test_hooks_never_leak_after_an_exception_in_the_forward() -> None:
    classifier = tiny_classifier()

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    handle = classifier.network.get_submodule("block2").register_forward_pre_hook(fail)
    before = hooks(classifier.network)
    with pytest.raises(RuntimeError, match="in the middle"):
        block_activations(classifier, images(1), ["block1", "head"])
    assert hooks(classifier.network) == before
    handle.remove()
    assert hooks(classifier.network) == 0


def test_gradients_flow_through_activations(classifier64: Classifier) -> None:
    x = images(1, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(block_activations(classifier64, x, ["block2"])[0].sum(), x)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    "blocks", [[], [5], [-6], ["no_such"], [1, "layer1"]], ids=["none", "too high", "too low", "no name", "mixed"]
)
def test_impossible_blocks_are_refused(resnet: Classifier, blocks: list) -> None:
    with pytest.raises(ConfigError, match="blocks"):
        check_blocks(resnet, blocks)


def test_stages_of_a_plain_module_must_be_named() -> None:
    with pytest.raises(ConfigError, match="block1"):
        default_blocks(tiny_classifier())
    with pytest.raises(ConfigError, match="stage 0"):
        check_blocks(tiny_classifier(), [0])


def test_outputs_that_are_no_maps_are_refused() -> None:
    with pytest.raises(ConfigError, match="'head' gives"):
        block_activations(tiny_classifier(), images(1), ["head"])


def test_blocks_that_the_forward_pass_does_not_visit_are_refused() -> None:
    network = TinyNetwork()
    network.spare = nn.Identity()
    with pytest.raises(ConfigError, match="spare took no part"):
        block_activations(Classifier(network, [0.4], [0.3]), images(1), ["block1", "spare"])
