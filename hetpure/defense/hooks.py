"""Watching network calls from outside: one kind of hook, on every network of a process."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hetpure.models.classifiers import Classifier, is_compiled
from hetpure.models.denoisers import innermost
from hetpure.purification.network import NetworkPurifier

Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], None]


def networks(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Every denoiser (without what wraps it), classifier and purifier's own network inside some modules, once.

    Of a diffusion classifier also its network, which it calls many times, unless that is compiled.
    """
    parts = [part for module in modules for part in module.modules()]
    found: list[nn.Module] = [part for part in parts if isinstance(part, Classifier)]
    found += [part.network for part in parts if isinstance(part, NetworkPurifier)]
    own = [part.network for part in parts if isinstance(part, Classifier) and part.network_calls]
    found += [network for network in own if not is_compiled(network)]
    found += [denoiser for module in modules for denoiser in innermost(module)]
    return list(dict.fromkeys(found))


@contextmanager
def after_calls(modules: Iterable[nn.Module], hook: Hook) -> Iterator[None]:
    """Calls ``hook(module, arguments, output)`` after every call of some modules, as long as the context lasts."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
