"""CIFAR-style residual networks (He et al. 2016, section 4.2), registered with timm.

timm's ``ResNet`` and ``ByobNet`` cannot represent them: both have a strided stem (the former with 64 channels), and the
former's feature interface counts on four stages. The blocks, the builder and the registry are timm's.
"""

from typing import Any

from timm.models._registry import generate_default_cfgs
from timm.models.resnet import BasicBlock, downsample_conv
from torch import Tensor, nn

from hetpure.models.cifar import CifarNetwork, default_cfg, register

__all__ = ["CifarResNet"]


class CifarResNet(CifarNetwork):
    """3x3 stem, three stages of basic blocks at full, half and quarter resolution, global average pooling.

    Shortcuts that change the width are 1x1 convolutions (option B of the paper). Features are the outputs of the stem
    and of the stages.

    Args:
        depth: blocks per stage; n in the paper's 6n + 2 layers.
        widths: channels of the three stages; the stem has the first's.
        **kwargs: see ``CifarNetwork``.
    """

    def __init__(self, depth: int = 3, widths: tuple[int, int, int] = (16, 32, 64), **kwargs: Any):
        super().__init__(**kwargs)
        before = widths[0]
        self.conv1 = nn.Conv2d(self.in_chans, before, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        self.act1 = nn.ReLU(inplace=True)
        self.feature_info.append({"num_chs": before, "reduction": 1, "module": "act1"})
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
        self.add_head(before)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))


_CFG = default_cfg(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

default_cfgs = generate_default_cfgs({"cifar_resnet8": _CFG, "cifar_resnet20": _CFG, "cifar_resnet32": _CFG})

register(CifarResNet, "cifar_resnet8", depth=1)  # 78 k parameters at the default widths
register(CifarResNet, "cifar_resnet20", depth=3)  # 0.27 M
register(CifarResNet, "cifar_resnet32", depth=5)  # 0.47 M
