"""CIFAR-style residual networks (He et al. 2016, section 4.2), registered with timm.

timm's ``ResNet`` and ``ByobNet`` cannot represent them: both have a strided stem (the former with 64 channels), and the
former's feature interface counts on four stages. The blocks, the builder and the registry are timm's.
"""

from typing import Any

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._registry import generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, downsample_conv
from torch import Tensor, nn
from torch.nn.functional import dropout

__all__ = ["CifarResNet"]


class CifarResNet(nn.Module):
    """3x3 stem, three stages of basic blocks at full, half and quarter resolution, global average pooling.

    Shortcuts that change the width are 1x1 convolutions (option B of the paper).

    Args:
        depth: blocks per stage; n in the paper's 6n + 2 layers.
        widths: channels of the three stages; the stem has the first's.
        num_classes: number of classes; 0 for no classifier.
        in_chans: channels of the image.
        global_pool: pooling before the classifier, as timm names it.
        drop_rate: dropout before the classifier.
    """

    def __init__(
        self,
        depth: int = 3,
        widths: tuple[int, int, int] = (16, 32, 64),
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU(inplace=True)
        self.feature_info = [{"num_chs": widths[0], "reduction": 1, "module": "act1"}]
        before = widths[0]
        for stage, width in enumerate(widths):
            blocks = []
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                shortcut = downsample_conv(before, width, 1, stride) if stride > 1 or before != width else None
                blocks.append(BasicBlock(before, width, stride, shortcut))
                before = width
            name = f"layer{stage + 1}"
            self.add_module(name, nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": width, "reduction": 2**stage, "module": name})
        self.num_features = self.head_hidden_size = before
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Parameter groups, for timm's layer-wise tools."""
        return {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

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
        """Features after the stem and after each stage's last ReLU, as every timm model gives them.

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
        x = self.act1(self.bn1(self.conv1(x)))
        intermediates = [x] if 0 in taken else []
        for stage in range(1, len(self.feature_info)):
            if stop_early and stage > last:
                break
            x = self.get_submodule(f"layer{stage}")(x)
            if stage in taken:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what the features wanted do not need."""
        taken, last = feature_take_indices(len(self.feature_info), indices)
        for stage in range(last + 1, len(self.feature_info)):
            self.add_module(f"layer{stage}", nn.Sequential())
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) to the last stage's (B, C, H / 4, W / 4)."""
        x = self.act1(self.bn1(self.conv1(x)))
        for stage in range(1, len(self.feature_info)):
            x = self.get_submodule(f"layer{stage}")(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map to logits (B, num_classes), or to pooled features."""
        x = dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, in_chans, H, W) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "conv1",
        "classifier": "fc",
        **kwargs,
    }


default_cfgs = generate_default_cfgs({"cifar_resnet8": _cfg(), "cifar_resnet20": _cfg(), "cifar_resnet32": _cfg()})


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(
        CifarResNet,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3)},
        **kwargs,
    )


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """One block per stage; 78 k parameters at the default widths."""
    return _create("cifar_resnet8", pretrained, **{"depth": 1, **kwargs})


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Three blocks per stage; 0.27 M parameters at the default widths."""
    return _create("cifar_resnet20", pretrained, **{"depth": 3, **kwargs})


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Five blocks per stage; 0.47 M parameters at the default widths."""
    return _create("cifar_resnet32", pretrained, **{"depth": 5, **kwargs})
