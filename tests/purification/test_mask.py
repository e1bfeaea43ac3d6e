"""Algorithm 2, worked out by hand.

Two blocks of two channels on a 2x2 image:

    A_1 = ([3 0; 0 -1], [4 0; 2 0])      A_2 = ([0 0; 0 6], [0 8; 0 0])

    sum |A|^1:      [7 0; 2 1]           [0 8; 0 6]
    sum |A|^2:      [25 0; 4 1]          [0 64; 0 36]
    its root:       [5 0; 2 1]           [0 8; 0 6]
    sum |A|^3:      [91 0; 8 1]          [0 512; 0 216]

    min-max, p = 2, no root:  [1 0; .16 .04]   [0 1; 0 .5625]   maximum [1 1; .16 .5625]
    min-max, p = 2, root:     [1 0; .4 .2]     [0 1; 0 .75]     maximum [1 1; .4 .75]
"""

import math

import pytest
import timm
import torch
from torch import Tensor, nn

import hetpure.models.resnet  # noqa: F401  registers cifar_resnet8 with timm
from hetpure.models.classifiers import Classifier
from hetpure.purification.mask import (
    AttentionMask,
    activation_strength,
    attention_map,
    normalize_map,
    select_threshold,
    select_top_fraction,
    top_fraction_threshold,
)
from tests.toys import images, tiny_classifier

A1 = torch.tensor([[[[3.0, 0.0], [0.0, -1.0]], [[4.0, 0.0], [2.0, 0.0]]]])
A2 = torch.tensor([[[[0.0, 0.0], [0.0, 6.0]], [[0.0, 8.0], [0.0, 0.0]]]])


class Fixed(nn.Module):
    """A block with a known activation, whatever it sees."""

    def __init__(self, activation: Tensor) -> None:
        super().__init__()
        self.register_buffer("activation", activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation.expand(len(x), -1, -1, -1)


class TwoBlocks(nn.Module):
    def __init__(self, a1: Tensor = A1, a2: Tensor = A2) -> None:
        super().__init__()
        self.first, self.second = Fixed(a1), Fixed(a2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x).flatten(1), self.second(x).flatten(1)], dim=1)


def two_blocks() -> Classifier:
    return Classifier(TwoBlocks(), [0.0], [1.0]).eval()


def square(values: list[list[float]]) -> Tensor:
    return torch.tensor(values)[None, None]


@pytest.mark.parametrize(
    ("p", "root", "expected"),
    [
        (1, False, [[7, 0], [2, 1]]),
        (1, True, [[7, 0], [2, 1]]),
        (2, False, [[25, 0], [4, 1]]),
        (2, True, [[5, 0], [2, 1]]),
        (3, False, [[91, 0], [8, 1]]),
        (3, True, [[91 ** (1 / 3), 0], [2, 1]]),
    ],
)
def test_strength_is_eq_2(p: int, root: bool, expected: list[list[float]]) -> None:
    torch.testing.assert_close(activation_strength(A1, p, root), square(expected).float())


def test_minmax_and_softmax() -> None:
    torch.testing.assert_close(
        normalize_map(square([[25.0, 0.0], [4.0, 1.0]]), "minmax"), square([[1, 0], [0.16, 0.04]])
    )
    # An offset is taken off: (5 - 1) / (9 - 1).
    torch.testing.assert_close(normalize_map(square([[1.0, 9.0], [5.0, 1.0]]), "minmax"), square([[0, 1], [0.5, 0]]))
    # e^5, e^0, e^2, e^1 over their sum 159.520497.
    torch.testing.assert_close(
        normalize_map(square([[5.0, 0.0], [2.0, 1.0]]), "softmax"),
        square([[0.930370, 0.006269], [0.046320, 0.017040]]),
        rtol=0,
        atol=1e-6,
    )


def test_each_image_is_normalised_by_itself() -> None:
    pair = torch.cat([square([[25.0, 0.0], [4.0, 1.0]]), square([[100.0, 50.0], [75.0, 60.0]])])
    expected = torch.cat([square([[1, 0], [0.16, 0.04]]), square([[1, 0], [0.5, 0.2]])])
    torch.testing.assert_close(normalize_map(pair, "minmax"), expected)


def test_a_constant_map_has_no_peak() -> None:
    assert torch.equal(normalize_map(torch.full((1, 1, 2, 2), 7.0), "minmax"), torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("root", "blocks", "expected"),
    [
        (False, ["first", "second"], [[1, 1], [0.16, 0.5625]]),
        (True, ["first", "second"], [[1, 1], [0.4, 0.75]]),
        (False, ["first"], [[1, 0], [0.16, 0.04]]),
        (True, ["first"], [[1, 0], [0.4, 0.2]]),
        (True, ["second"], [[0, 1], [0, 0.75]]),
    ],
)
def test_attention_is_the_maximum_over_blocks(root: bool, blocks: list, expected: list) -> None:
    mask = AttentionMask(two_blocks(), blocks, root=root)
    torch.testing.assert_close(mask.attention(torch.zeros(1, 1, 2, 2)), square(expected).float())


def test_attention_with_softmax() -> None:
    """e^0, e^8, e^0, e^6 over their sum 3386.386780 for the second block."""
    mask = AttentionMask(two_blocks(), ["first", "second"], root=True, normalization="softmax")
    expected = square([[0.930370, 0.880277], [0.046320, 0.119133]])
    torch.testing.assert_close(mask.attention(torch.zeros(1, 1, 2, 2)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"tau": 0.6}, [[1, 1], [0, 0]]),
        ({"tau": 0.6, "root": True}, [[1, 1], [0, 1]]),
        ({"tau": 0.5625}, [[1, 1], [0, 1]]),  # reaching tau is enough
        ({"tau": 0.16}, [[1, 1], [1, 1]]),
        ({"tau": 1.0}, [[1, 1], [0, 0]]),  # the peaks
        ({"tau": 0.0}, [[1, 1], [1, 1]]),
        ({"tau": 0.3, "blocks": ["first"]}, [[1, 0], [0, 0]]),
        ({"tau": 0.3, "blocks": ["first"], "root": True}, [[1, 0], [1, 0]]),
        # p = 1: first [1 0; 2/7 1/7], second [0 1; 0 .75]
        ({"tau": 0.25, "p": 1, "root": True}, [[1, 1], [1, 1]]),
        ({"tau": 0.3, "p": 1}, [[1, 1], [0, 1]]),
        # p = 3: 216 / 512 = 0.42
        ({"tau": 0.5, "p": 3}, [[1, 1], [0, 0]]),
        ({"tau": 0.9, "root": True, "normalization": "softmax"}, [[1, 0], [0, 0]]),
        ({"tau": 0.95, "root": True, "normalization": "softmax"}, [[0, 0], [0, 0]]),
        ({"selection": "top_fraction", "top_fraction": 0.5}, [[1, 1], [0, 0]]),
        ({"selection": "top_fraction", "top_fraction": 0.75}, [[1, 1], [0, 1]]),
        ({"selection": "top_fraction", "top_fraction": 0.74}, [[1, 1], [0, 0]]),  # int(0.74 * 4) = 2
        ({"selection": "top_fraction", "top_fraction": 0.5, "blocks": ["first"]}, [[1, 0], [1, 0]]),
        ({"selection": "top_fraction", "top_fraction": 1.0}, [[1, 1], [1, 1]]),
    ],
)
def test_algorithm_2_by_hand(settings: dict, expected: list) -> None:
    mask = AttentionMask(two_blocks(), **{"blocks": ["first", "second"], **settings})
    x = torch.zeros(3, 1, 2, 2)
    assert torch.equal(mask(x), square(expected).float().expand(3, 1, 2, 2))


def test_the_union_of_masks_is_the_mask_of_the_maximum() -> None:
    """Eq. (4) takes the union of each block's thresholded map."""
    torch.manual_seed(0)
    activations = [torch.randn(4, 3, 8, 8), torch.randn(4, 5, 4, 4)]
    joint = select_threshold(attention_map(activations, (8, 8), 2, True, "minmax"), 0.7)
    union = torch.zeros_like(joint)
    for activation in activations:
        union = torch.maximum(union, select_threshold(attention_map([activation], (8, 8), 2, True, "minmax"), 0.7))
    assert torch.equal(joint, union)
    assert 0 < joint.mean() < 1


def test_maps_are_brought_to_the_image_bilinearly_before_they_are_normalised() -> None:
    """From 2 to 4 along each side, a | b becomes a, .75a+.25b, .25a+.75b, b (half-pixel centres)."""
    activation = torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]])
    found = attention_map([activation], (4, 4), 1, False, "minmax")
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(1, 1, 4, 4))
    # The root bends before the interpolation: strengths 0 and 2 (root of 4), not 0 and 4.
    squared = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])
    for p, root, low, high in ((2, False, 1.0, 9.0), (2, True, 1.0, 3.0)):
        row = torch.tensor([low, 0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high, high])
        expected = torch.softmax(row.expand(4, 4).flatten(), 0).view(1, 1, 4, 4)
        torch.testing.assert_close(attention_map([squared], (4, 4), p, root, "softmax"), expected)


def test_top_fraction_takes_exactly_that_many_of_every_image() -> None:
    torch.manual_seed(0)
    attention = torch.rand(5, 1, 32, 32)
    mask = select_top_fraction(attention, 0.15)
    assert mask.flatten(1).sum(1).tolist() == [153] * 5  # int(0.15 * 1024)
    for a, m in zip(attention, mask, strict=True):
        assert a[m == 1].min() > a[m == 0].max()
    ties = select_top_fraction(torch.zeros(2, 1, 4, 4), 0.25)
    assert ties.flatten(1).sum(1).tolist() == [4, 4]


@pytest.mark.parametrize(("fraction", "expected"), [(0.2, math.inf), (0.25, 0.8), (0.5, 0.55), (1.0, -math.inf)])
def test_the_threshold_of_a_top_fraction_is_halfway_to_the_next_pixel(fraction: float, expected: float) -> None:
    found = top_fraction_threshold(square([[0.4, 0.9], [0.1, 0.7]]).double(), fraction)
    torch.testing.assert_close(found, torch.full((1, 1, 1, 1), expected, dtype=torch.float64))


def test_the_classifier_looks_through_its_own_normalisation_at_images_in_0_1() -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x).flatten(1)

    classifier = Classifier(Seen(), [0.5], [0.1])
    x = torch.tensor([[[[0.5, 0.1], [0.7, 0.6]]]])
    # (x - 0.5) / 0.1 = [0 -4; 2 1], squares [0 16; 4 1]
    found = AttentionMask(classifier, ["block"]).attention(x)
    torch.testing.assert_close(found, square([[0, 1], [0.25, 0.0625]]), rtol=1e-5, atol=1e-5)


def test_a_mask_is_ones_and_zeros_of_the_images_own_kind_and_carries_no_gradient() -> None:
    mask = AttentionMask(tiny_classifier(), ["block1", "block2"], tau=0.7)
    x = images(3).requires_grad_()
    found = mask(x)
    assert found.shape == (3, 1, 8, 8) and found.dtype == x.dtype and not found.requires_grad
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(found, torch.cat([mask(x[i : i + 1]) for i in range(3)]))


@pytest.mark.parametrize("model", ["cifar_resnet8", "resnet10t", "vit_tiny_patch16_224"])
def test_any_timm_model_without_naming_blocks(model: str) -> None:
    kwargs = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2} if "vit" in model else {}
    classifier = Classifier(timm.create_model(model, num_classes=10, **kwargs), [0.5] * 3, [0.2] * 3).eval()
    attention = AttentionMask(classifier).attention(images(2, 3, 32))
    assert attention.shape == (2, 1, 32, 32)
    assert attention.amax(dim=(1, 2, 3)).tolist() == [1.0, 1.0] and attention.min() >= 0.0


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("tau", -0.1),
        ("tau", 1.1),
        ("tau", float("nan")),
        ("top_fraction", 0.0),
        ("top_fraction", 1.5),
        ("p", 0),
        ("normalization", "max"),
        ("selection", "some"),
        ("blocks", ["no_such"]),
        ("blocks", []),
    ],
)
def test_impossible_arguments_are_refused_by_name(argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{argument}"):
        AttentionMask(two_blocks(), **{"blocks": ["first"], argument: value})  # pyright: ignore


def test_a_fraction_of_less_than_a_pixel_is_an_empty_mask() -> None:
    assert select_top_fraction(torch.rand(1, 1, 2, 2), 0.1).sum() == 0


@pytest.mark.parametrize(("height", "width", "far"), [(32, 32, 0), (64, 64, 1), (50, 50, 1), (32, 48, 0), (48, 32, 0)])
def test_the_mask_lies_where_the_classifier_looks_though_it_sees_a_crop(height: int, width: int, far: int) -> None:
    """A classifier that sees the centre 28 of 32: its maps are put back in their place, and beyond them is nothing."""

    class Echo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x).flatten(1)

    classifier = Classifier(Echo(), [0.0], [1.0], image_size=28, crop_pct=0.875).eval()
    x = torch.zeros(1, 1, height, width)
    row, column = round(0.3 * height), round(0.7 * width)
    x[..., row, column] = 1.0
    x[..., 0, :] = 1.0  # beyond the crop
    mask = AttentionMask(classifier, ["block"], selection="top_fraction", top_fraction=1 / (height * width))
    attention = mask.attention(x)
    rows, columns = classifier.seen(height, width)
    outside = torch.ones_like(attention)
    outside[..., rows, columns] = 0.0
    assert attention.shape == x.shape and (attention * outside).sum() == 0
    found = mask(x)[0, 0].nonzero()
    assert len(found) == 1
    assert (found[0] - torch.tensor([row, column])).abs().max() <= far
