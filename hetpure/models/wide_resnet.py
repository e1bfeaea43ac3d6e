"""Wide residual networks (Zagoruyko & Komodakis 2016) of the CIFAR-10 and SVHN benchmarks, registered with timm.

timm has none of them. Three public layouts of state dicts load into one network each:

* ``wrn28_10`` and ``wrn70_16``: RobustBench's ``WideResNet`` (its ``Standard`` entry), images in [0, 1] as they are;
  and szagoruyko's functional ``params`` (SVHN, as Lee & Kim 2023 and the paper train it), the same network by other
  names.
* ``dm_wrn28_10`` and ``dm_wrn70_16``: DeepMind's, of the adversarially trained entries (Gowal et al., Rebuffi et al.):
  SiLU, and where a block halves the resolution its first convolution is padded on the right and below only.

Facts: https://github.com/RobustBench/robustbench (``model_zoo/architectures``),
https://github.com/szagoruyko/wide-residual-networks (``pytorch/resnet.py``).
"""

import re
from collections.abc import Mapping
from typing import Any

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.create_act import get_act_layer
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._registry import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn.functional import dropout, pad

__all__ = ["WideResNet"]


def _activation(name: str) -> nn.Module:
    layer = get_act_layer(name)
    if layer is None:
        raise ValueError(f"act_layer = {name!r} is unknown to timm")
    return layer()


class Block(nn.Module):
    """Pre-activation block of two 3x3 convolutions.

    Args:
        before: channels in.
        width: channels out.
        stride: of the first convolution.
        act_layer: activation, as timm names it.
        pad_after: pad a strided convolution on the right and below only.
        drop_rate: dropout between the convolutions.
    """

    def __init__(
        self, before: int, width: int, stride: int, act_layer: str, pad_after: bool = False, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.padding = (0, 1, 0, 1) if pad_after and stride > 1 else (1, 1, 1, 1)
        self.drop_rate = drop_rate
        self.bn1 = nn.BatchNorm2d(before)
        self.act1 = _activation(act_layer)
        self.conv1 = nn.Conv2d(before, width, 3, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = _activation(act_layer)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False) if before != width else None

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's second activation, and its shortcut."""
        first = self.act1(self.bn1(x))
        second = self.act2(self.bn2(self.conv1(pad(first, self.padding))))
        return second, x if self.shortcut is None else self.shortcut(first)

    def finish(self, second: Tensor, shortcut: Tensor) -> Tensor:
        """The block's output from ``activations``."""
        return shortcut + self.conv2(dropout(second, self.drop_rate, self.training))

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, width, H / stride, W / stride)."""
        return self.finish(*self.activations(x))


class WideResNet(nn.Module):
    """3x3 stem, three groups of blocks at full, half and quarter resolution, global average pooling.

    Features are the paper's four blocks (its appendix on table 7): the last activation inside each group, and the one
    before the pooling.

    Args:
        depth: layers, 6 n + 4 for n blocks a group.
        width: factor on the groups' 16, 32, 64 channels.
        num_classes: number of classes; 0 for no classifier.
        in_chans: channels of the image.
        global_pool: pooling before the classifier, as timm names it.
        drop_rate: dropout inside the blocks.
        act_layer: activation, as timm names it.
        pad_after: DeepMind's padding of strided convolutions.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        act_layer: str = "relu",
        pad_after: bool = False,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth = {depth} must be 6 n + 4")
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        blocks, before = (depth - 4) // 6, 16
        self.conv1 = nn.Conv2d(in_chans, before, 3, padding=1, bias=False)
        self.feature_info = []
        for group in range(3):
            after = 16 * 2**group * width
            stride = 2 if group else 1
            layers = []
            for block in range(blocks):
                layers.append(Block(before, after, 1 if block else stride, act_layer, pad_after, drop_rate))
                before = after
            self.add_module(f"layer{group + 1}", nn.Sequential(*layers))
            last = f"layer{group + 1}.{blocks - 1}.act2"
            self.feature_info.append({"num_chs": after, "reduction": 2**group, "module": last})
        self.bn = nn.BatchNorm2d(before)
        self.act = _activation(act_layer)
        self.feature_info.append({"num_chs": before, "reduction": 4, "module": "act"})
        self.num_features = self.head_hidden_size = before
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Parameter groups, for timm's layer-wise tools."""
        return {"stem": r"^conv1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """A fresh classifier for another number of classes."""
        self.num_classes = num_classes
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The four features, as every timm model gives them.

        Args:
            x: normalised images, (B, in_chans, H, W).
            indices: the last n features if int, all four if None, else the ones named.
            norm: of no effect: the features are normalised.
            stop_early: compute nothing beyond the last feature wanted.
            output_fmt: NCHW.
            intermediates_only: return the features without the final one.

        Returns:
            Features (B, C, H, W), or the final feature map and them.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt = {output_fmt!r} must be NCHW")
        taken, last = feature_take_indices(len(self.feature_info), indices)
        x = self.conv1(x)
        intermediates = []
        for group in range(3):
            if stop_early and group > last:
                return intermediates if intermediates_only else (x, intermediates)
            *blocks, final = self.get_submodule(f"layer{group + 1}").children()
            for block in blocks:
                x = block(x)
            assert isinstance(final, Block)
            second, shortcut = final.activations(x)
            if group in taken:
                intermediates.append(second)
            x = final.finish(second, shortcut)
        x = self.act(self.bn(x))
        if 3 in taken:
            intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the classifier; every group is needed by the last feature, so none is dropped."""
        taken, _ = feature_take_indices(len(self.feature_info), indices)
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) to the last activation, (B, C, H / 4, W / 4)."""
        x = self.conv1(x)
        for group in range(3):
            x = self.get_submodule(f"layer{group + 1}")(x)
        return self.act(self.bn(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map to logits (B, num_classes), or to pooled features."""
        x = self.global_pool(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, in_chans, H, W) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    @staticmethod
    def from_public_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict in one of the three public layouts (or this class's own), by this class's names.

        Some RobustBench entries hold a ``sub_block1`` that their network does not use; it is left out.
        """
        renamed = {_own_name(name): value for name, value in state.items()}
        return {name: value for name, value in renamed.items() if not name.startswith("sub_block1.")}


_NAMES = [
    # RobustBench's WideResNet
    (r"block(\d)\.layer\.(\d+)\.convShortcut\.", r"layer\1.\2.shortcut."),
    (r"block(\d)\.layer\.(\d+)\.", r"layer\1.\2."),
    (r"bn1\.", "bn."),
    # DeepMind's
    (r"init_conv\.", "conv1."),
    (r"batchnorm\.", "bn."),
    (r"logits\.", "fc."),
    # szagoruyko's; weights of convolutions have no suffix there
    (r"conv0$", "conv1.weight"),
]


def _own_name(name: str) -> str:
    for prefix in ("module.", "model."):
        name = name.removeprefix(prefix)
    if found := re.fullmatch(r"layer\.(\d)\.block\.(\d+)\.(.*)", name):  # DeepMind's
        layer = re.sub(r"^batchnorm_", "bn_", found[3])
        layer = re.sub(r"^(bn|conv)_(\d)", lambda part: f"{part[1]}{int(part[2]) + 1}", layer)
        return f"layer{int(found[1]) + 1}.{found[2]}.{layer}"
    if found := re.fullmatch(r"group(\d)\.block(\d+)\.(bn|conv)(\d|dim)(.*)", name):  # szagoruyko's
        layer = "shortcut" if found[4] == "dim" else f"{found[3]}{int(found[4]) + 1}"
        return f"layer{int(found[1]) + 1}.{found[2]}.{layer}{found[5] or '.weight'}"
    for pattern, replacement in _NAMES:
        name, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            break
    return name


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "first_conv": "conv1",
        "classifier": "fc",
        **kwargs,
    }


_DEEPMIND = _cfg(mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))

default_cfgs = generate_default_cfgs(
    {"wrn28_10": _cfg(), "wrn70_16": _cfg(), "dm_wrn28_10": _DEEPMIND, "dm_wrn70_16": _DEEPMIND}
)


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> WideResNet:
    return build_model_with_cfg(
        WideResNet, variant, pretrained, feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}, **kwargs
    )


@register_model
def wrn28_10(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """RobustBench's ``Standard`` network, and SVHN's; 36.5 M parameters."""
    return _create("wrn28_10", pretrained, **{"depth": 28, "width": 10, **kwargs})


@register_model
def wrn70_16(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """The same family, deeper and wider; 267 M parameters."""
    return _create("wrn70_16", pretrained, **{"depth": 70, "width": 16, **kwargs})


@register_model
def dm_wrn28_10(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """DeepMind's 28-10 with SiLU, as RobustBench's Gowal2020, Rebuffi2021, Gowal2021 and Pang2022 entries have it."""
    return _create("dm_wrn28_10", pretrained, **{"depth": 28, "width": 10, **_DM, **kwargs})


@register_model
def dm_wrn70_16(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """DeepMind's 70-16 with SiLU, of the same entries, and DiffPure's standard 70-16 for CIFAR-10."""
    return _create("dm_wrn70_16", pretrained, **{"depth": 70, "width": 16, **_DM, **kwargs})


_DM = {"act_layer": "silu", "pad_after": True}
