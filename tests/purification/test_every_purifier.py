"""What holds for every purifier by name: exact gradients, keyed draws, honest counts, refusals, views."""

from typing import Any

import pytest
import torch

from hetpure.errors import ConfigError
from hetpure.models.denoisers import Recomputed
from hetpure.noise import Draws
from hetpure.purification.base import Purifier
from hetpure.purification.network import NetworkPurifier
from hetpure.purification.registry import PURIFIERS, build_purifier, complete_settings
from tests.purification.networks import network_settings
from tests.toys import ToyDenoiser, images, rows, tiny_classifier

CASES: dict[str, dict[str, Any]] = {
    "diffpure_sde": {"name": "diffpure_sde", "t": 0.1, "grid_size": 50},
    "diffpure_ode-euler": {"name": "diffpure_ode", "t": 0.1, "grid_size": 50},
    "diffpure_ode-heun": {"name": "diffpure_ode", "t": 0.1, "grid_size": 50, "solver": "heun"},
    "adp": {"name": "adp", "sigma": 0.1, "score_steps": 3, "stop": 0.0},
    "menet": {"name": "menet", "p": 0.7, "share": 0.5},
    "freqpure": {"name": "freqpure", "t": [0.02, 0.06], "network_calls": [2, 3]},
    "freqpure-released": {"name": "freqpure", "preset": "released", "t": [0.02, 0.06], "network_calls": [2, 3]},
    "gdmp-mse": {"name": "gdmp", "t": 0.006, "rounds": 2, "scale": 1.0},
    "gdmp-ssim": {"name": "gdmp", "t": 0.006, "rounds": 2, "guide": "ssim", "scale": 10.0, "variance": "small"},
    "gdmp-coarse": {"name": "gdmp", "t": 0.2, "rounds": 1, "grid_size": 20, "scale": 60.0},
    "gns": {"name": "gns", "t": [0.03, 0.1], "network_calls": [3, 5]},
    "mimic": {
        **{"name": "mimic", "grid_size": 10, "short_range": 32.0, "long_range": 32.0},
        **{"low": 0.0, "high": 1.1, "softness": 0.5},
    },
    "mimic-bilinear": {
        **{"name": "mimic", "t": 0.2, "grid_size": 20, "short_range": 2.0, "long_range": 2.0, "factor": 3},
        **{"upsampling": "bilinear", "low": 0.0, "eta": 0.0, "softness": 0.5},
    },
    "contrastive": {"name": "contrastive", "t": 0.06, "grid_size": 50, "scale": 20.0, "negatives": 3},
    "lorid": {"name": "lorid", "t": 0.02, "loops": 2, "network_calls": 2, "share": 0.5},
    "lorid-hosvd": {"name": "lorid", "t": 0.02, "loops": 1, "network_calls": 2, "share": 0.6, "sweeps": 0},
    "ebm": {"name": "ebm", "langevin_steps": 6, "noise": 0.05},
    "atop": {"name": "atop", "sigma": 0.05, "block": 2},
    "pixeldefend": {"name": "pixeldefend", "eps": 16 / 255, "shape": [3, 8, 8]},
}

NETWORKS = {"ebm": "ToyEnergy", "atop": "ToyInpainter", "pixeldefend": "ToyPixelCNN"}

REFUSED: list[dict[str, Any]] = [
    {"name": "diffpure_sde", "t": 1.0},
    {"name": "diffpure_sde", "grid_size": 0},
    {"name": "diffpure_sde", "grid_size": 4},
    {"name": "diffpure_ode", "t": 0.0},
    {"name": "diffpure_ode", "grid_size": 2},
    {"name": "diffpure_ode", "solver": "rk4"},
    {"name": "adp", "sigma": -0.1},
    {"name": "adp", "score_steps": 0},
    {"name": "adp", "step_size": 0.0},
    {"name": "adp", "stop": 1.0},
    {"name": "adp", "t": 1.0},
    {"name": "menet", "p": 0.0},
    {"name": "menet", "share": 1.5},
    {"name": "freqpure", "t": [1.5]},
    {"name": "freqpure", "amplitude_cut": -1.0},
    {"name": "freqpure", "phase_cut": -1.0},
    {"name": "freqpure", "delta": -0.1},
    {"name": "freqpure", "reference": 1.0},
    {"name": "gdmp", "t": 0.0001},
    {"name": "gdmp", "t": 1.0},
    {"name": "gdmp", "grid_size": 0},
    {"name": "gdmp", "grid_size": 7},
    {"name": "gdmp", "grid_size": 20},
    {"name": "gdmp", "rounds": 0},
    {"name": "gdmp", "guide": "l1"},
    {"name": "gdmp", "scale": -1.0},
    {"name": "gdmp", "radius": 0.0},
    {"name": "gdmp", "variance": "none"},
    {"name": "gns", "t": []},
    {"name": "gns", "network_calls": [1]},
    {"name": "gns", "t": [0.03], "network_calls": [7]},
    {"name": "gns", "eta": 2.0},
    {"name": "mimic", "t": 1.1},
    {"name": "mimic", "t": 0.0},
    {"name": "mimic", "grid_size": 7},
    {"name": "mimic", "eta": 2.0},
    {"name": "mimic", "short_range": -1.0},
    {"name": "mimic", "long_range": -1.0},
    {"name": "mimic", "factor": 0},
    {"name": "mimic", "upsampling": "cubic"},
    {"name": "mimic", "low": 0.9},
    {"name": "mimic", "softness": -1.0},
    {"name": "contrastive", "t": 1.0},
    {"name": "contrastive", "grid_size": 7},
    {"name": "contrastive", "eta": 2.0},
    {"name": "contrastive", "scale": -1.0},
    {"name": "contrastive", "negatives": 0},
    {"name": "contrastive", "patches": 1},
    {"name": "contrastive", "temperature": 0.0},
    {"name": "contrastive", "tau_plus": 1.0},
    {"name": "contrastive", "beta": -1.0},
    {"name": "lorid", "t": 1.0},
    {"name": "lorid", "loops": 0},
    {"name": "lorid", "network_calls": 7},
    {"name": "lorid", "share": 0.0},
    {"name": "lorid", "sweeps": -1},
    {"name": "ebm", "langevin_steps": 0},
    {"name": "ebm", "step_size": 0.0},
    {"name": "ebm", "noise": -1.0},
    {"name": "atop", "sigma": -1.0},
    {"name": "atop", "missing": 1.0},
    {"name": "atop", "block": 0},
    {"name": "pixeldefend", "eps": 0.01},
    {"name": "pixeldefend", "shape": [3, 32]},
]


def built(settings: dict[str, Any], denoiser: Any = None, dtype: torch.dtype = torch.float32) -> Purifier:
    if settings["name"] in NETWORKS:
        settings = {"network": network_settings(NETWORKS[settings["name"]]), **settings}
    return build_purifier(complete_settings(settings), tiny_classifier(3, dtype=dtype), denoiser or ToyDenoiser(3))


def draws_of(count: int) -> Draws:
    return rows(count, seed=7)


def test_all_names_are_here() -> None:
    assert {c["name"] for c in CASES.values()} == set(PURIFIERS) - {"none", "uniform", "heterogeneous"}


@pytest.mark.parametrize("case", [c for c in CASES if PURIFIERS[CASES[c]["name"]].differentiable])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_is_the_finite_difference(case: str, recompute: bool) -> None:
    """Central differences in float64 along three random directions and a pixel: relative error < 1e-5."""
    denoiser = ToyDenoiser(3)
    purifier = built(CASES[case], Recomputed(denoiser) if recompute else denoiser, torch.float64)
    x = (0.2 + 0.6 * images(2, 3, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((purifier(x, draws_of(2)) * weight).sum(), x)
    directions = [
        torch.randn(x.shape, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in range(2, 5)
    ]
    pixel = torch.zeros_like(x)
    pixel[:, 1, 3, 4] = 1.0
    h = 1e-6
    with torch.no_grad():
        for direction in (*directions, pixel):
            a, b = (
                (purifier(x + sign * h * direction, draws_of(2)) * weight).flatten(1).sum(1).sum() for sign in (1, -1)
            )
            expected = (a - b) / (2 * h)
            assert abs(expected) > 1e-4, "nothing was tested"
            assert abs((gradient * direction).sum() - expected) < 1e-5 * max(abs(expected), gradient.norm())


@pytest.mark.parametrize("case", CASES)
def test_rows_do_not_see_each_other(case: str) -> None:
    """Alone, in company and in another order: to the bit.

    Alone only to 1e-5 behind a classifier, whose kernels round by the size of the batch; among others, to the bit.
    """
    purifier, x = built(CASES[case]), images(3, 3)
    together = purifier(x, draws_of(3))
    alone, within = purifier(x[1:2], draws_of(3).rows(slice(1, 2))), 1e-5 if hasattr(purifier, "classifier") else 0.0
    torch.testing.assert_close(alone, together[1:2], rtol=0.0, atol=within)
    others = torch.stack([1.0 - x[2], x[1], 0.5 * x[0]])
    assert torch.equal(purifier(others, draws_of(3))[1], together[1])
    order = torch.tensor([2, 0, 1])
    assert torch.equal(purifier(x[order], draws_of(3).rows(order)), together[order])


@pytest.mark.parametrize("case", CASES)
def test_network_calls_and_views(case: str) -> None:
    denoiser = ToyDenoiser(3)
    purifier, x = built(CASES[case], denoiser), images(2, 3)
    rows_asked: list[int] = []
    if isinstance(purifier, NetworkPurifier):
        purifier.check_images((3, 8, 8))
        purifier.network.register_forward_pre_hook(lambda _, inputs: rows_asked.append(len(inputs[0])))
    out = purifier(x, draws_of(2))
    assert len(denoiser.asked) + sum(rows_asked) // 2 == purifier.network_calls
    assert out.shape == x.shape and out.dtype == x.dtype and out.min() >= 0 and out.max() <= 1
    views = purifier.views(x, draws_of(2))
    assert list(views)[-1] == "purified" and len(views) > 1 and torch.equal(views["purified"], out)
    for view in views.values():
        assert view.shape[0] == 2 and view.shape[2:] == (8, 8) and view.min() >= 0 and view.max() <= 1
    again = purifier(x, Draws(7, "defense", torch.arange(2), torch.ones(2, dtype=torch.int64)))
    assert torch.equal(out, again) is not purifier.stochastic


@pytest.mark.parametrize("settings", REFUSED, ids=str)
def test_impossible_arguments_are_refused(settings: dict[str, Any]) -> None:
    argument = list(settings)[-1]
    with pytest.raises(ConfigError, match=rf"^purifier\.{argument}( is|:)"):
        built(settings)


def test_every_preset_can_be_built() -> None:
    for name, cls in PURIFIERS.items():
        for preset in cls.PRESETS:
            if name != "heterogeneous":
                built({"name": name, "preset": preset})
