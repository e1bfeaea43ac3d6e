"""Base class of purifiers with a network of their own kind, which the user supplies."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hetpure.errors import ConfigError
from hetpure.purification.base import Purifier


class NetworkPurifier(Purifier, ABC):
    """A purifier with a network that is no denoiser; the user supplies its class and weights.

    It is frozen, in evaluation mode; rows of a batch must not affect each other in it. Each subclass says what it takes
    and returns, and in ``NETWORK`` in a few words what it is, for the message if it is missing. ``NETWORK_NAME`` is
    the ``network.name`` of a config that has none.
    """

    NETWORK: ClassVar[str]
    NETWORK_NAME: ClassVar[str | None] = None

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def try_network(self, x: Tensor) -> None:
        """One network call on images x (N, C, H, W) in [0, 1]; ConfigError if its output has the wrong shape."""

    def check_images(self, shape: tuple[int, int, int]) -> None:
        """Raises ConfigError, which names the argument, if images of (C, H, W) cannot go through the network."""
        try:
            with torch.no_grad():
                self.try_network(torch.full((1, *shape), 0.5))
        except ConfigError:
            raise
        except Exception as error:  # a user's network may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            size = "x".join(map(str, shape))
            raise ConfigError("network.name", f"the network does not take {size} images: {reason}") from None


def check_output(output: Any, shape: tuple[int, ...]) -> Tensor:
    """The network's output, if it is a tensor of that shape; ConfigError if not."""
    actual = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if actual != shape:
        raise ConfigError("network.name", f"the network returns {actual}, and {shape} is needed")
    return output
