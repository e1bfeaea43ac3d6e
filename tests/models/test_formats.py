"""Other projects' denoiser checkpoints: small networks in their layouts, against numbers the originals computed."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hetpure.cli import main
from hetpure.errors import ConfigError
from hetpure.models.denoisers import Denoiser, build_denoiser
from tests.models.layouts import images, layout, samples, weights
from tests.models.persistence import save_network
from tests.toys import ALPHA_BARS

SETTINGS = {"VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000}, "EDMPrecond": {"sigma_data": 0.5}}
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
"""float32 on both sides; outputs are of about 0.6. At t = 0 EDM's noise is a difference over sigma = 0.01."""


def parallel(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": value for name, value in state.items()}


def save_ddpm(file: Path, ema: bool = True) -> None:
    shapes = layout("ddpm")["shapes"]
    average, other = weights(shapes), weights(shapes, "other")
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    training = [parallel(other if ema else average), optimizer, 3, 1000]
    torch.save([*training, average] if ema else training, file)


def save_score_sde(file: Path) -> None:
    shapes = layout("score_sde")["shapes"]
    average, other = weights(shapes), weights(shapes, "other")
    shadow = [value for name, value in average.items() if name != "sigmas"]
    ema = {"decay": 0.9999, "num_updates": 950_000, "shadow_params": shadow}
    torch.save({"optimizer": {"state": {}}, "model": parallel(other), "ema": ema, "step": 950_000}, file)


def check(denoiser: Denoiser, expected: dict[str, Any], size: int) -> None:
    for t, numbers in expected.items():
        found = denoiser(images(2, 3, size, size), int(t))
        assert found.is_contiguous() and found.shape == (2, 3, size, size)
        torch.testing.assert_close(samples(found), numbers, **TOLERANCE)


@pytest.mark.parametrize("ema", [True, False])
def test_ddpm(tmp_path: Path, ema: bool) -> None:
    save_ddpm(tmp_path / "ckpt.pth", ema)
    denoiser = build_denoiser(str(tmp_path / "ckpt.pth"), "ddpm")
    assert (denoiser.channels, denoiser.image_size, denoiser.multiple) == (3, 32, 2)
    check(denoiser, layout("ddpm")["outputs"], 32)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_bare_state_dict_is_a_ddpm_too(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"ddpm.{suffix}"
    state = weights(layout("ddpm")["shapes"])
    (save_file if suffix == "safetensors" else torch.save)(state, file)
    check(build_denoiser(str(file), "ddpm"), {"200": layout("ddpm")["outputs"]["200"]}, 32)


def test_guided_diffusion(tmp_path: Path) -> None:
    torch.save(weights(layout("guided_diffusion")["shapes"]), tmp_path / "uncond.pt")
    denoiser = build_denoiser(str(tmp_path / "uncond.pt"), "guided_diffusion")
    assert (denoiser.channels, denoiser.image_size, denoiser.multiple) == (3, 64, 2)
    check(denoiser, layout("guided_diffusion")["outputs"], 16)


@pytest.mark.parametrize(("format", "key"), [("score_sde", "outputs"), ("score_sde_matched", "matched")])
def test_score_sde(tmp_path: Path, format: str, key: str) -> None:
    save_score_sde(tmp_path / "checkpoint_8.pth")
    denoiser = build_denoiser(str(tmp_path / "checkpoint_8.pth"), format)
    assert (denoiser.channels, denoiser.image_size, denoiser.multiple) == (3, 32, 4)
    check(denoiser, layout("score_sde")[key], 32)


@pytest.mark.parametrize("preconditioning", ["VPPrecond", "EDMPrecond"])
def test_edm(tmp_path: Path, preconditioning: str) -> None:
    found = layout("edm")
    save_network(tmp_path / "n.pkl", weights(found["shapes"]), preconditioning, **SETTINGS[preconditioning])
    denoiser = build_denoiser(str(tmp_path / "n.pkl"), "edm")
    assert (denoiser.channels, denoiser.image_size, denoiser.multiple) == (3, 16, 2)
    check(denoiser, found["outputs"][preconditioning], 16)


def test_the_continuous_process_has_the_timesteps_noise_level_at_its_label(tmp_path: Path) -> None:
    save_score_sde(tmp_path / "c.pth")
    denoiser: Any = build_denoiser(str(tmp_path / "c.pth"), "score_sde_matched")
    for t in (0, 1, 200, 999):
        u = denoiser.conditioning[t].label / 999
        assert math.exp(-0.1 * u - 0.5 * 19.9 * u**2) == pytest.approx(ALPHA_BARS[t], rel=1e-12)


def test_edms_labels_are_rounded_as_there(tmp_path: Path) -> None:
    # From the original, t = 0, 7, 200; exact would be 0.91556, 7.68419, 200.54926.
    save_network(tmp_path / "n.pkl", weights(layout("edm")["shapes"]), "VPPrecond", **SETTINGS["VPPrecond"])
    denoiser: Any = build_denoiser(str(tmp_path / "n.pkl"), "edm")
    found = [denoiser.conditioning[t].label for t in (0, 7, 200)]
    assert found == pytest.approx([0.91561610, 7.68397188, 200.54927063], rel=2e-6)


def test_gradients_reach_the_image(tmp_path: Path) -> None:
    save_network(tmp_path / "n.pkl", weights(layout("edm")["shapes"]), "EDMPrecond", sigma_data=0.5)
    denoiser = build_denoiser(str(tmp_path / "n.pkl"), "edm").double()
    x = images(1, 3, 16, 16).double().requires_grad_()
    direction = images(1, 3, 16, 16).double().flip(-1)
    (gradient,) = torch.autograd.grad(denoiser(x, 100).square().sum(), x)
    step = 1e-6 * direction
    with torch.no_grad():
        ahead, behind = (denoiser(x + s, 100).square().sum() for s in (step, -step))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("format", ["ddpm", "guided_diffusion", "score_sde", "score_sde_matched", "edm"])
def test_conversion_changes_no_weight(tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source.pkl"
    if format == "ddpm":
        save_ddpm(source)
    elif format == "guided_diffusion":
        torch.save(weights(layout(format)["shapes"]), source)
    elif format == "edm":
        save_network(source, weights(layout("edm")["shapes"]), "VPPrecond", **SETTINGS["VPPrecond"])
    else:
        save_score_sde(source)
    target = tmp_path / "to" / ("folder" if format in ("ddpm", "guided_diffusion") else "file.safetensors")
    assert main(["convert", str(source), str(target), "--format", format]) == 0
    loads = "diffusers" if target.name == "folder" else format
    assert f"denoiser.format={loads} " in capsys.readouterr().out
    before, after = build_denoiser(str(source), format), build_denoiser(str(target), loads)
    assert (before.channels, before.image_size, before.multiple) == (after.channels, after.image_size, after.multiple)
    x = images(1, 3, 16, 16)
    # Weights that diffusers maps from a file are aligned otherwise, and kernels then round otherwise.
    torch.testing.assert_close(before(x, 200), after(x, 200), rtol=1e-5, atol=1e-5)
    own = {name.removeprefix("unet."): value for name, value in before.state_dict().items()}
    assert all(torch.equal(own[name.removeprefix("unet.")], value) for name, value in after.state_dict().items())
    assert main(["convert", str(source), str(target), "--format", format]) == 2
    assert capsys.readouterr().err == f"error: {target}: exists already\n"


def test_networks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "n.pth"

    def refused(format: str, match: str) -> None:
        with pytest.raises(ConfigError, match=match) as caught:
            build_denoiser(str(file), format)
        assert str(caught.value).startswith("denoiser.path") and "\n" not in str(caught.value)

    for format, match in (
        ("ddpm", "no DDPM network|missing conv_in"),
        ("guided_diffusion", "guided-diffusion"),
        ("score_sde", "NCSN"),
    ):
        torch.save({"conv.weight": torch.zeros(1)}, file)
        refused(format, match)
        torch.save([1, 2], file)
        refused(format, "no state dict")
        torch.save(weights(layout("score_sde" if format == "ddpm" else "ddpm")["shapes"]), file)
        refused(format, match)
        state = weights(layout(format)["shapes"])
        state.pop(next(name for name in state if name.endswith("bias")))
        torch.save(state, file)
        refused(format, "missing .*bias")
    torch.save({**weights(layout("guided_diffusion")["shapes"]), "label_emb.weight": torch.zeros(1000, 128)}, file)
    refused("guided_diffusion", "class-conditional")
    state = weights(layout("score_sde")["shapes"])
    torch.save({"model": parallel(state), "ema": {"shadow_params": list(state.values())[:5]}}, file)
    refused("score_sde", "shadow_params")
    state = {"model." + name.removeprefix("model."): value for name, value in weights(layout("edm")["shapes"]).items()}
    save_network(file, state, "VEPrecond")
    refused("edm", "holds VEPrecond; accepted: VPPrecond and EDMPrecond")
    save_network(file, state, "EDMPrecond")
    refused("edm", "EDMPrecond without 'sigma_data'")
    save_network(file, {**state, "model.map_label.weight": torch.zeros(4, 4)}, "EDMPrecond", sigma_data=0.5)
    refused("edm", "class-conditional")
    save_network(file, {k: v for k, v in state.items() if "map_layer0.bias" not in k}, "EDMPrecond", sigma_data=0.5)
    refused("edm", r"missing linear_1\.bias")


@pytest.mark.parametrize("format", ["ddpm", "guided_diffusion", "score_sde"])
def test_odd_names_and_shapes_are_refused_on_one_line(tmp_path: Path, format: str) -> None:
    state, file = weights(layout(format)["shapes"]), tmp_path / "n.pt"
    names = list(state)
    for number, name in enumerate([*names[:4], *names[-4:]]):
        for odd in (torch.zeros(()), torch.zeros(0, 0, 0, 0)):
            torch.save({**state, name: odd} if number % 3 else {**state, name + ".99999999999": odd}, file)
            with pytest.raises(ConfigError) as caught:
                build_denoiser(str(file), format)
            assert str(caught.value).startswith("denoiser.path") and "\n" not in str(caught.value)


def test_the_converters_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "none.pkl"), str(tmp_path / "o.safetensors"), "--format", "edm"]) == 2
    assert capsys.readouterr().err.endswith("none.pkl: no such file\n")
    save_score_sde(tmp_path / "c.pth")
    assert main(["convert", str(tmp_path / "c.pth"), str(tmp_path / "folder"), "--format", "score_sde"]) == 2
    assert "format score_sde is converted to a file; accepted: NAME.safetensors" in capsys.readouterr().err
