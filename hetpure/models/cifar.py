"""What the CIFAR-sized networks share: a 3x3 stem, three resolutions, pooling and a linear layer, as timm models."""

from typing import Any

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models._builder import build_model_with_cfg
from timm.models._registry import register_model
from torch import Tensor, nn
from torch.nn.functional import dropout


class CifarNetwork(nn.Module):
    """Base class; a subclass builds its layers, fills ``feature_info`` and calls ``add_head``.

    Args:
        num_classes: number of classes; 0 for no classifier.
        in_chans: channels of the image.
        global_pool: pooling before the classifier, as timm names it.
        drop_rate: dropout before the classifier.

    Attributes:
        feature_info: width, reduction and module of each feature, as timm's feature interface has them.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(
        self, num_classes: int = 10, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.pool_type = global_pool
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.feature_info: list[dict[str, Any]] = []

    def add_head(self, width: int) -> None:
        """Adds pooling and classifier to layers that give ``width`` channels, and initialises the convolutions."""
        self.num_features = self.head_hidden_size = width
        self.reset_classifier(self.num_classes, self.pool_type)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """A fresh classifier for another number of classes."""
        self.num_classes = num_classes
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised images (B, in_chans, H, W) to the last feature map, (B, C, H / 4, W / 4)."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map to logits (B, num_classes), or to pooled features."""
        x = dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, in_chans, H, W) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


def register(cls: type[CifarNetwork], variant: str, **defaults: Any) -> None:
    """Registers a network with timm, as a model of the module of its class, which has its ``default_cfgs``."""
    features = {"out_indices": (0, 1, 2, 3), "feature_cls": "hook", "no_rewrite": False}

    def create(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
        return build_model_with_cfg(cls, variant, pretrained, feature_cfg=features, **{**defaults, **kwargs})

    create.__name__, create.__module__ = variant, cls.__module__
    register_model(create)


def default_cfg(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """The pretrained_cfg, as timm calls it, of a network for 32x32 images of ten classes."""
    sizes = {"num_classes": 10, "input_size": (3, 32, 32), "pool_size": (8, 8), "crop_pct": 1.0}
    ends = {"first_conv": "conv1", "classifier": "fc"}
    return {"url": "", "interpolation": "bilinear", "mean": mean, "std": std, **sizes, **ends}
