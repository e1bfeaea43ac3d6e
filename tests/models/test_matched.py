"""diffusers networks of other schedules and predictions, against diffusers' own schedulers."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor

from hetpure.errors import ConfigError
from hetpure.evaluation.content import network_content
from hetpure.models.denoisers import LINEAR_VP, DiffusersDenoiser, build_denoiser
from hetpure.models.diffusers_folder import MatchedDenoiser, match_levels
from tests.toys import images, tiny_unet

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "v on our schedule": ("DDPMScheduler", {"prediction_type": "v_prediction"}),
    "x0 on our schedule": ("DDPMScheduler", {"prediction_type": "sample"}),
    "cosine": ("DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
    "cosine, v": ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}),
    "scaled linear": ("DDIMScheduler", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    "4000 steps": ("DDPMScheduler", {"num_train_timesteps": 4000, "beta_start": 2.5e-5, "beta_end": 5e-3}),
    "100 steps, x0": (
        "DDPMScheduler",
        {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.2, "prediction_type": "sample"},
    ),
    "trained": ("DDPMScheduler", {"trained_betas": [0.001 * (k + 1) for k in range(50)], "num_train_timesteps": 50}),
    "zero snr, v": ("DDIMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
}


def saved(folder: Path, kind: str) -> Any:
    name, settings = KINDS[kind]
    tiny_unet(seed=3).save_pretrained(folder / "unet")
    scheduler = getattr(diffusers, name)(**settings, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    return scheduler


def x0_of(denoiser: DiffusersDenoiser, x: Tensor, t: int) -> Tensor:
    return LINEAR_VP.predict_x0(x, t, denoiser(x, t))


@pytest.mark.parametrize("kind", KINDS)
def test_the_clean_image_is_the_schedulers_own(kind: str, tmp_path: Path) -> None:
    """At the noise level of one of the scheduler's timesteps: x(0) as ``scheduler.step`` predicts it, to 1e-4 of it."""
    scheduler = saved(tmp_path, kind)
    unet: Any = build_denoiser(str(tmp_path)).unet
    abar = scheduler.alphas_cumprod.double().numpy()
    scheduler.set_timesteps(len(abar))
    for share in (0.02, 0.3, 0.6, 0.9):
        s = int(share * len(abar))
        level = float(abar[s])
        (conditioning,) = match_levels(abar.clip(1e-20), scheduler.config.prediction_type, [level])
        assert abs(conditioning.label - s) < 1e-9 * len(abar)
        x0, noise = 2 * images(2) - 1, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(s))
        x = scheduler.add_noise(x0, noise, torch.tensor([s, s]))
        predicted = unet(x, s, return_dict=False)[0]
        eps = conditioning.skip * x + conditioning.out * predicted
        ours = (x - (1 - level) ** 0.5 * eps) / level**0.5
        expected = scheduler.step(predicted, s, x).pred_original_sample
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_on_the_same_levels_it_is_the_schedulers_conversion(prediction: str, tmp_path: Path) -> None:
    """On our schedule the matching is exact: x(0) agrees with ``scheduler.step`` to rounding, 1e-4."""
    tiny_unet(seed=3).save_pretrained(tmp_path / "unet")
    scheduler: Any = diffusers.DDPMScheduler(prediction_type=prediction, clip_sample=False)  # pyright: ignore
    scheduler.save_pretrained(tmp_path / "scheduler")
    denoiser = build_denoiser(str(tmp_path))
    assert isinstance(denoiser, MatchedDenoiser) is (prediction != "epsilon")
    unet: Any = denoiser.unet
    for t in (1, 40, 400, 990):
        x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(t))
        expected = scheduler.step(unet(x, t, return_dict=False)[0], t, x).pred_original_sample
        torch.testing.assert_close(x0_of(denoiser, x, t), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_levels_are_matched(kind: str, tmp_path: Path) -> None:
    """The logarithm of the signal-to-noise ratio, interpolated at the label, is ours, or the nearest that there is."""
    scheduler = saved(tmp_path, kind)
    denoiser = build_denoiser(str(tmp_path))
    assert isinstance(denoiser, MatchedDenoiser)
    abar = scheduler.alphas_cumprod.double().clamp(min=1e-20)
    snr = (abar / (1 - abar)).log()
    for t in range(0, 1000, 37):
        label = denoiser.conditioning[t].label
        low = min(int(label), len(abar) - 2)
        between = snr[low] + (label - low) * (snr[low + 1] - snr[low])
        wanted = torch.tensor(LINEAR_VP.alpha_bar(t), dtype=torch.float64).logit().clamp(snr[-1], snr[0])
        assert abs(float(between - wanted)) < 1e-6 * max(1.0, abs(float(wanted)))


def test_a_consistency_model(tmp_path: Path) -> None:
    """Its x(0) is that of diffusers' scheduler and pipeline at the same sigma, to 1e-4."""
    tiny_unet(seed=3).save_pretrained(tmp_path / "unet")
    scheduler: Any = diffusers.CMStochasticIterativeScheduler(clip_denoised=False)  # pyright: ignore
    scheduler.save_pretrained(tmp_path / "scheduler")
    denoiser = build_denoiser(str(tmp_path))
    assert isinstance(denoiser, MatchedDenoiser)
    unet: Any = denoiser.unet
    for t in (5, 100, 400, 800):
        abar = LINEAR_VP.alpha_bar(t)
        sigma = ((1 - abar) / abar) ** 0.5
        x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(t))
        y = x / abar**0.5
        skip, out = scheduler.get_scalings_for_boundary_condition(torch.tensor(sigma, dtype=torch.float64))
        label = scheduler.sigma_to_t(torch.tensor([sigma], dtype=torch.float64).numpy())
        scaled = y / (sigma**2 + scheduler.config.sigma_data**2) ** 0.5
        expected = skip * y + out * unet(scaled, torch.tensor(label, dtype=torch.float32), return_dict=False)[0]
        torch.testing.assert_close(x0_of(denoiser, x, t), expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["cosine, v", "100 steps, x0"])
def test_the_gradient_is_exact(kind: str, tmp_path: Path) -> None:
    """Central differences in float64: relative error below 1e-6."""
    saved(tmp_path, kind)
    denoiser = build_denoiser(str(tmp_path)).double()
    x = (2 * images(1, dtype=torch.float64) - 1).requires_grad_()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(denoiser(x, 200).square().sum(), x)
    with torch.no_grad():
        ahead, behind = (denoiser(x + s * 1e-6 * direction, 200).square().sum() for s in (1, -1))
    expected = float(ahead - behind) / 2e-6
    assert abs(float((gradient * direction).sum()) - expected) < 1e-6 * abs(expected)


def test_a_learned_embedding_is_asked_at_whole_timesteps(tmp_path: Path) -> None:
    config = {key: value for key, value in tiny_unet().config.items() if not key.startswith("_")}
    unet = UNet2DModel(**config | {"time_embedding_type": "learned", "num_train_timesteps": 1000})
    unet.save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path / "scheduler")  # pyright: ignore
    denoiser = build_denoiser(str(tmp_path))
    assert isinstance(denoiser, MatchedDenoiser) and all(c.label == int(c.label) for c in denoiser.conditioning)
    assert denoiser(2 * images(2) - 1, 321).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(("entries", "scheduler"), [(999, "linear"), (100, "squaredcos_cap_v2"), (None, "linear")])
def test_a_learned_embedding_without_all_timesteps_is_refused(
    entries: int | None, scheduler: str, tmp_path: Path
) -> None:
    config = {key: value for key, value in tiny_unet().config.items() if not key.startswith("_")}
    UNet2DModel(**config | {"time_embedding_type": "learned", "num_train_timesteps": 50}).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_train_timesteps": entries}))
    diffusers.DDPMScheduler(beta_schedule=scheduler).save_pretrained(tmp_path)  # pyright: ignore
    with pytest.raises(ConfigError, match=f"num_train_timesteps is {entries}; a learned embedding needs an entry"):
        build_denoiser(str(tmp_path))


def test_the_network_folder_of_a_pipeline_has_the_pipelines_schedule(tmp_path: Path) -> None:
    saved(tmp_path, "cosine, v")
    (tmp_path / "model_index.json").write_text("{}")
    whole, part = build_denoiser(str(tmp_path)), build_denoiser(str(tmp_path / "unet"))
    assert isinstance(whole, MatchedDenoiser) and isinstance(part, MatchedDenoiser)
    assert part.conditioning == whole.conditioning


def test_labels_that_are_no_timesteps_are_refused(tmp_path: Path) -> None:
    tiny_unet().save_pretrained(tmp_path)
    diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction").save_pretrained(  # pyright: ignore
        tmp_path
    )
    with pytest.raises(ConfigError, match="timestep_type is 'continuous'; accepted: discrete"):
        build_denoiser(str(tmp_path))


def test_the_content_covers_the_scheduler(tmp_path: Path) -> None:
    """Of one network under every scheduler; on our schedule, its hash is that of its weights alone."""
    found = {}
    for kind in KINDS:
        saved(tmp_path / kind, kind)
        denoiser = build_denoiser(str(tmp_path / kind))
        found[kind] = network_content(denoiser)
        assert network_content(build_denoiser(str(tmp_path / kind))) == found[kind]
        assert network_content(denoiser.double().float()) == found[kind]
    assert len(set(found.values())) == len(KINDS)
    tiny_unet(seed=3).save_pretrained(tmp_path / "ours")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "ours")  # pyright: ignore
    ours = build_denoiser(str(tmp_path / "ours"))
    assert network_content(ours) == network_content(DiffusersDenoiser(tiny_unet(seed=3)))
    assert network_content(ours) not in found.values() and not any("extra" in name for name in ours.state_dict())


def test_weights_of_another_conditioning_are_not_loaded(tmp_path: Path) -> None:
    saved(tmp_path / "a", "cosine")
    saved(tmp_path / "b", "scaled linear")
    a, b = build_denoiser(str(tmp_path / "a")), build_denoiser(str(tmp_path / "b"))
    a.load_state_dict(a.state_dict())
    with pytest.raises(ValueError, match="another conditioning"):
        a.load_state_dict(b.state_dict())


def test_the_included_networks_are_called_as_they_are() -> None:
    """And their hash, which finished runs hold, is what it was."""
    for folder, content in (("digits", "94f8ea7071bd7801"), ("cifar10_lab", "77965e1657b7b5df")):
        denoiser = build_denoiser(f"checkpoints/{folder}/denoiser")
        assert type(denoiser) is DiffusersDenoiser and network_content(denoiser) == content
