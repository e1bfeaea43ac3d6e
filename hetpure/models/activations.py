"""A classifier's block activations A_m (eq. 2): timm's own feature interface where it has one, hooks elsewhere."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from hetpure.errors import ConfigError, require
from hetpure.models.classifiers import Classifier, is_compiled

Block = int | str

DEFAULT_STAGES = 4
"""A timm model's last four stages: the paper's four blocks of a ResNet (its stem is no block)."""


def default_blocks(classifier: Classifier) -> list[Block]:
    """The blocks that are used where none are named: ConfigError for a network without timm's feature interface."""
    _refuse_denoiser(classifier)
    stages = len(_feature_info(classifier.network))
    if not stages:
        problem = f"must be named for {type(classifier.network).__name__}, which has no timm feature interface"
        raise ConfigError("blocks", problem, accepted=f"its modules {_some_modules(classifier.network)}")
    return list(range(max(stages - DEFAULT_STAGES, 0), stages))


def check_blocks(classifier: Classifier, blocks: Sequence[Block]) -> None:
    """Raises ConfigError for a block that the classifier does not have, or a mixture of indices and names."""
    _refuse_denoiser(classifier)
    kinds = {type(block) for block in blocks}
    require(len(kinds) == 1, "blocks", list(blocks), "at least one block, either stage indices or module names")
    stages = len(_feature_info(classifier.network))
    modules = dict(classifier.network.named_modules())
    for block in blocks:
        if isinstance(block, int) and not -stages <= block < stages:
            raise ConfigError("blocks", f"stage {block} does not exist; the network has {stages} timm feature stages")
        if isinstance(block, str) and block not in modules:
            accepted = _some_modules(classifier.network)
            raise ConfigError("blocks", f"{block!r} is no module of the network", accepted=accepted)


def block_activations(classifier: Classifier, x: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """Activations of blocks, timm stage indices or module names, for images x (B, C, H, W) in [0, 1].

    Returns:
        One (B, C_m, H_m, W_m) tensor a block; transformer tokens are laid out on their grid, prefix tokens left out.

    Raises:
        ConfigError: for a block that gives no map.
    """
    network, z = classifier.network, classifier.normalize(x)
    names, aspect = [str(b) for b in blocks], z.shape[-2] / z.shape[-1]
    if isinstance(blocks[0], int):
        info = _feature_info(network)
        indices = [b % len(info) for b in blocks if isinstance(b, int)]
        forward = getattr(network, "forward_intermediates", None)
        if forward is not None:
            order = sorted(set(indices))
            with classifier.autocast():
                features = forward(z, indices=order, intermediates_only=True, output_fmt="NCHW")
            return [features[order.index(i)].to(z.dtype) for i in indices]
        names, aspect = [info[i]["module"] for i in indices], None
    outputs = _outputs(classifier, z, names)
    if unused := [name for name in names if name not in outputs]:
        raise ConfigError("blocks", f"{', '.join(unused)} took no part in the network's forward pass")
    declared = str(getattr(network, "output_fmt", "NCHW"))
    return [_as_map(outputs[name], name, aspect, declared).to(z.dtype) for name in names]


def _refuse_denoiser(classifier: Classifier) -> None:
    if classifier.network_calls:
        raise ConfigError("blocks", "a diffusion classifier has none: its network never sees the image without noise")


def _outputs(classifier: Classifier, z: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Outputs of modules in one forward pass, recorded by hooks that are removed again even after an exception."""
    network, outputs = classifier.network, {}
    with ExitStack() as stack, classifier.autocast():
        for name in set(names):
            module = network.get_submodule(name)
            handle = module.register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
            stack.enter_context(handle)
        (network.forward if is_compiled(network) else network)(z)
    return outputs


def _as_map(output: Any, name: str, aspect: float | None, declared: str) -> Tensor:
    """A module's output as (B, C, H, W).

    ``aspect`` is height by width of the network's input, or None for a stage, whose layout is the one that the network
    ``declared``: ``NCHW``, or ``NHWC`` (timm's Swin and its relatives).
    """
    if isinstance(output, tuple | list):
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        kind = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError("blocks", f"{name!r} gives {kind}", accepted="(B, C, H, W) maps and (B, N, C) tokens")
    if output.ndim == 4:
        last = declared == "NHWC" if aspect is None else _channels_last(output, aspect, declared)
        return output.movedim(-1, 1) if last else output
    tokens = output.shape[1]
    side = math.isqrt(tokens)  # a square grid behind a few prefix tokens (class, registers)
    grid = output[:, tokens - side * side :].transpose(1, 2)
    return grid.reshape(len(output), -1, side, side)


def _channels_last(output: Tensor, aspect: float, declared: str) -> bool:
    """Whether a map is (B, H, W, C): its sides then stand in the input's proportion, and channels are no side.

    Where both readings fit alike, as of (B, 8, 8, 8), what the network declares decides.
    """
    _, first, second, third = output.shape
    as_nchw, as_nhwc = (abs(math.log(h / w / aspect)) for h, w in ((second, third), (first, second)))
    return declared == "NHWC" if math.isclose(as_nchw, as_nhwc, abs_tol=1e-9) else as_nhwc < as_nchw


def _feature_info(network: nn.Module) -> list[dict[str, Any]]:
    info = getattr(network, "feature_info", None)
    return list(getattr(info, "info", info) or [])


def _some_modules(network: nn.Module) -> str:
    names = [name for name, _ in network.named_modules() if name]
    names.sort(key=lambda name: name.count("."))
    return ", ".join(names[:12]) + (" .." if len(names) > 12 else "")
