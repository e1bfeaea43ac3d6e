"""What holds for every purifier by name: exact gradients, keyed draws, honest counts, refusals, views."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hetpure.errors import ConfigError
from hetpure.purification.base import Purifier
from hetpure.purification.checks import (
    Build,
    Verdict,
    check_calls,
    check_gradient,
    check_images,
    check_randomness,
    check_rows,
    check_views,
    draws_of,
    small_images,
)
from hetpure.purification.network import NetworkPurifier
from hetpure.purification.registry import PURIFIERS, build_purifier, complete_settings
from tests.purification.networks import network_settings
from tests.toys import ToyDenoiser, tiny_classifier

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
    "denoised_smoothing": {"name": "denoised_smoothing", "sigma": 0.1},
    "consistency": {"name": "consistency", "t": 0.25},
    "pixeldefend": {"name": "pixeldefend", "eps": 16 / 255, "shape": [3, 8, 8]},
    "gaussian_noise": {"name": "gaussian_noise", "sigma": 0.05},
    "gaussian_blur": {"name": "gaussian_blur", "sigma": 0.8},
    "bit_depth": {"name": "bit_depth", "bits": 2},
    "total_variation": {"name": "total_variation", "weight": 0.05, "iterations": 10},
    "jpeg": {"name": "jpeg", "quality": 30},
    "jpeg-cubic": {"name": "jpeg", "quality": 30, "rounding": "cubic"},
    "fast_diffpure": {"name": "fast_diffpure", "t": 0.1, "scale": 500.0},
    "likelihood": {"name": "likelihood", "ascent_steps": 3},
    "likelihood-released": {"name": "likelihood", "preset": "released", "ascent_steps": 3},
    "adbm": {"name": "adbm", "t": 0.06, "network_calls": 4},
    "flowpure": {"name": "flowpure", "sigma": 0.1, "network_calls": 4},
    "flowpure-pgd": {"name": "flowpure", "preset": "pgd", "network_calls": 4},
}

BASELINES = {"gaussian_noise", "gaussian_blur", "bit_depth", "total_variation", "jpeg"}
"""Of one step, so that nothing comes between the image and the result."""

NETWORKS = {"ebm": "ToyEnergy", "atop": "ToyInpainter", "pixeldefend": "ToyPixelCNN", "flowpure": "ToyVelocity"}

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
    {"name": "denoised_smoothing", "sigma": 0.0},
    {"name": "denoised_smoothing", "sigma": 100.0},
    {"name": "denoised_smoothing", "sigma": math.nan},
    {"name": "pixeldefend", "eps": 0.01},
    {"name": "pixeldefend", "shape": [3, 32]},
    {"name": "gaussian_noise", "sigma": 0.0},
    {"name": "gaussian_blur", "sigma": -1.0},
    {"name": "consistency", "t": 1.0},
    {"name": "consistency", "t": 0.0},
    {"name": "fast_diffpure", "t": 1.0},
    {"name": "fast_diffpure", "t": 0.0001},
    {"name": "fast_diffpure", "scale": -1.0},
    {"name": "likelihood", "ascent_steps": 0},
    {"name": "likelihood", "step_size": 0.0},
    {"name": "likelihood", "eps": 1.5},
    {"name": "likelihood", "update": "sgd"},
    {"name": "likelihood", "momentum": -0.1},
    {"name": "likelihood", "t_high": 1.0},
    {"name": "likelihood", "t_low": 0.5},
    {"name": "adbm", "t": 1.0},
    {"name": "adbm", "network_calls": 7},
    {"name": "flowpure", "sigma": -0.1},
    {"name": "flowpure", "t_start": 1.0},
    {"name": "flowpure", "network_calls": 0},
    {"name": "bit_depth", "bits": 9},
    {"name": "total_variation", "weight": 0.0},
    {"name": "total_variation", "iterations": 0},
    {"name": "jpeg", "quality": 0},
    {"name": "jpeg", "rounding": "soft"},
]


def built(settings: dict[str, Any], denoiser: Any = None, dtype: torch.dtype = torch.float32) -> Purifier:
    if settings["name"] in NETWORKS:
        settings = {"network": network_settings(NETWORKS[settings["name"]]), **settings}
    return build_purifier(complete_settings(settings), tiny_classifier(3, dtype=dtype), denoiser or ToyDenoiser(3))


def test_all_names_are_here() -> None:
    assert {c["name"] for c in CASES.values()} == set(PURIFIERS) - {"none", "uniform", "heterogeneous"}


@pytest.mark.parametrize(
    "check", [check_images, check_randomness, check_rows, check_calls, check_views, check_gradient]
)
@pytest.mark.parametrize("case", CASES)
def test_every_check_passes(case: str, check: Callable[[Build], Verdict]) -> None:
    verdict = check(lambda denoiser, dtype: built(CASES[case], denoiser, dtype))
    if verdict.passed is None:
        assert not built(CASES[case]).differentiable
    else:
        assert verdict.passed, verdict.details
    if verdict.name == "views" and CASES[case]["name"] not in BASELINES:
        assert ", " in verdict.details  # at least one step before the result


@pytest.mark.parametrize("case", CASES)
def test_rows_without_a_classifier_are_equal_to_the_bit_alone(case: str) -> None:
    purifier, x = built(CASES[case]), small_images(3)
    if not hasattr(purifier, "classifier"):
        alone = purifier(x[1:2], draws_of(3).rows(slice(1, 2)))
        assert torch.equal(alone, purifier(x, draws_of(3))[1:2])


@pytest.mark.parametrize("case", NETWORKS)
def test_a_networks_output_is_tried(case: str) -> None:
    purifier = built(CASES[case])
    assert isinstance(purifier, NetworkPurifier)
    purifier.check_images((3, 8, 8))


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
