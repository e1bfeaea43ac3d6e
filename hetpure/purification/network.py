"""What purifiers around a network of their own kind share: a network that the user brings."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hetpure.purification.base import Purifier


class NetworkPurifier(Purifier, ABC):
    """A purifier around a network that is no denoiser; its class and weights are the user's.

    Args:
        network: frozen, in evaluation mode; each subclass says what it takes and gives. Rows of a batch must not see
            each other in it.

    Attributes:
        NETWORK: the network in a few words, for the message where it is missing.
    """

    NETWORK: ClassVar[str]

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def try_network(self, x: Tensor) -> None:
        """One network call on images x (N, C, H, W) in [0, 1]; ValueError where its answer has the wrong shape."""

    def check_images(self, shape: tuple[int, int, int]) -> None:
        """Raises ValueError, which names the argument, where images of (C, H, W) cannot go through the network."""
        try:
            with torch.no_grad():
                self.try_network(torch.full((1, *shape), 0.5))
        except ValueError:
            raise
        except Exception as error:  # a user's network may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ValueError(f"network.name: does not take {'x'.join(map(str, shape))} images: {reason}") from None


def check_answer(answer: Any, shape: tuple[int, ...]) -> Tensor:
    """The network's answer, if it is a tensor of that shape; ValueError if not."""
    found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if found != shape:
        raise ValueError(f"network.name: its network gives {found} where {shape} is needed")
    return answer
