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

from collections.abc import Mapping
from typing import Any

from timm.layers.create_act import get_act_layer
from timm.models._registry import generate_default_cfgs
from torch import Tensor, nn
from torch.nn.functional import dropout, pad

from hetpure.errors import ConfigError, require
from hetpure.models.checkpoints import rename
from hetpure.models.cifar import CifarNetwork, default_cfg, register

__all__ = ["WideResNet"]


def _activation(name: str) -> nn.Module:
    if (layer := get_act_layer(name)) is None:
        raise ConfigError("act_layer", found=name, accepted="timm's activations")
    return layer()


class Block(nn.Module):
    """Pre-activation block of two 3x3 convolutions, with dropout in between; see ``WideResNet``."""

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

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, width, H / stride, W / stride)."""
        first = self.act1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(first)
        second = self.act2(self.bn2(self.conv1(pad(first, self.padding))))
        return shortcut + self.conv2(dropout(second, self.drop_rate, self.training))


class WideResNet(CifarNetwork):
    """3x3 stem, three groups of blocks at full, half and quarter resolution, global average pooling.

    Features are the paper's four blocks (its appendix on table 7): the last activation inside each group, and the one
    before the pooling.

    Args:
        depth: layers, 6 n + 4 for n blocks a group.
        width: factor on the groups' 16, 32, 64 channels.
        drop_rate: dropout inside the blocks.
        act_layer: activation, as timm names it.
        pad_after: DeepMind's padding of strided convolutions, on the right and below only.
        **kwargs: see ``CifarNetwork``.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        drop_rate: float = 0.0,
        act_layer: str = "relu",
        pad_after: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(depth >= 10 and depth % 6 == 4, "depth", depth, "6 n + 4, from 10")
        blocks, before = (depth - 4) // 6, 16
        self.conv1 = nn.Conv2d(self.in_chans, before, 3, padding=1, bias=False)
        for group in range(3):
            after = 16 * 2**group * width
            layers = []
            for block in range(blocks):
                stride = 2 if group > 0 and block == 0 else 1
                layers.append(Block(before, after, stride, act_layer, pad_after, drop_rate))
                before = after
            self.add_module(f"layer{group + 1}", nn.Sequential(*layers))
            last = f"layer{group + 1}.{blocks - 1}.act2"
            self.feature_info.append({"num_chs": after, "reduction": 2**group, "module": last})
        self.bn = nn.BatchNorm2d(before)
        self.act = _activation(act_layer)
        self.feature_info.append({"num_chs": before, "reduction": 4, "module": "act"})
        self.add_head(before)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.act(self.bn(x))

    @staticmethod
    def from_public_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict in one of the three public layouts (or this class's own), by this class's names.

        Some RobustBench entries hold a ``sub_block1`` that their network does not use; it is left out.
        """
        renamed = {rename(name, _NAMES): value for name, value in state.items()}
        return {name: value for name, value in renamed.items() if not name.startswith("sub_block1.")}


_NAMES = [
    (r"^(module\.)?(model\.)?", ""),
    # RobustBench's WideResNet
    (r"^block(\d)\.layer\.(\d+)\.", r"layer\1.\2."),
    (r"\.convShortcut\.", ".shortcut."),
    (r"^bn1\.", "bn."),
    # DeepMind's, its blocks first to szagoruyko's names
    (r"^init_conv\.", "conv1."),
    (r"^batchnorm\.", "bn."),
    (r"^logits\.", "fc."),
    (r"^layer\.(\d)\.block\.(\d+)\.", r"group\1.block\2."),
    (r"\.batchnorm_(\d)\.", r".bn\1."),
    (r"\.conv_(\d)\.", r".conv\1."),
    # szagoruyko's, which count from 0; weights of convolutions have no suffix
    (r"^conv0$", "conv1.weight"),
    (r"^group(\d)\.block(\d+)\.(bn|conv)(\d)", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.{m[3]}{int(m[4]) + 1}"),
    (r"^group(\d)\.block(\d+)\.(convdim|shortcut)", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.shortcut"),
    (r"^(layer\d\.\d+\.(conv\d|shortcut))$", r"\1.weight"),
]

_CFG = default_cfg(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_DEEPMIND_CFG = default_cfg(mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))
_DEEPMIND = {"act_layer": "silu", "pad_after": True}

default_cfgs = generate_default_cfgs(
    {"wrn28_10": _CFG, "wrn70_16": _CFG, "dm_wrn28_10": _DEEPMIND_CFG, "dm_wrn70_16": _DEEPMIND_CFG}
)

register(WideResNet, "wrn28_10", depth=28, width=10)  # RobustBench's Standard, and SVHN's; 36.5 M parameters
register(WideResNet, "wrn70_16", depth=70, width=16)  # 267 M
# RobustBench's Gowal2020, Rebuffi2021, Gowal2021 and Pang2022; the larger one also DiffPure's for CIFAR-10
register(WideResNet, "dm_wrn28_10", depth=28, width=10, **_DEEPMIND)
register(WideResNet, "dm_wrn70_16", depth=70, width=16, **_DEEPMIND)
