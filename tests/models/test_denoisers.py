import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from hetpure.defense.hooks import after_calls
from hetpure.errors import ConfigError
from hetpure.evaluation.content import network_content
from hetpure.models.denoisers import Denoiser, DiffusersDenoiser, Recomputed, build_denoiser
from hetpure.models.diffusers_folder import MatchedDenoiser, save_diffusers
from hetpure.models.precision import Lowered
from hetpure.schedule import Schedule
from tests.toys import ToyDenoiser, images, tiny_unet


def test_a_call_is_the_network_at_that_timestep() -> None:
    unet = tiny_unet().eval()
    x = images(3)
    with torch.no_grad():
        expected = unet(x, torch.tensor([7, 7, 7])).sample
        other = unet(x, torch.tensor([8, 8, 8])).sample
    found = DiffusersDenoiser(unet)(x, 7)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # channels-last kernels round differently
    assert (found - other).abs().max() > 1e-3
    assert found.is_contiguous()


def test_of_a_learned_variance_only_the_mean_is_used() -> None:
    unet = tiny_unet()
    torch.manual_seed(0)
    unet.conv_out = torch.nn.Conv2d(8, 2, 3, padding=1)
    x = images(2)
    with torch.no_grad():
        expected = unet(x, torch.tensor([7, 7])).sample[:, :1]
    found = DiffusersDenoiser(unet)(x, 7)
    assert found.shape == x.shape and found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_networks_are_frozen_and_in_evaluation_mode() -> None:
    denoiser = DiffusersDenoiser(tiny_unet().train())
    assert not any(module.training for module in denoiser.unet.modules())
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())


@pytest.mark.parametrize("form", ["unet", "pipeline"])
def test_diffusers_folders_load(tmp_path: Path, form: str) -> None:
    unet = tiny_unet()
    if form == "unet":
        unet.save_pretrained(tmp_path)
    else:
        DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)  # DDPM's defaults are this very schedule
    denoiser = build_denoiser(str(tmp_path))
    assert (denoiser.channels, denoiser.image_size, denoiser.multiple) == (1, 8, 2)
    x = images(2)
    assert torch.equal(denoiser(x, 3), DiffusersDenoiser(tiny_unet())(x, 3))


def test_attention_weights_under_their_early_names_load(tmp_path: Path) -> None:
    tiny_unet().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    early = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for now, before in early.items():
        state = {name.replace(f".{now}.", f".{before}."): value.clone() for name, value in state.items()}
    assert sum(".query." in name for name in state) == 2
    save_file(state, file)
    assert network_content(build_denoiser(str(tmp_path))) == network_content(DiffusersDenoiser(tiny_unet()))


def test_half_precision_weights_compute_in_float32(tmp_path: Path) -> None:
    tiny_unet().half().save_pretrained(tmp_path)
    denoiser = build_denoiser(str(tmp_path))
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}
    assert denoiser(images(1), 3).dtype == torch.float32


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prediction_type", "flow_prediction"),
        ("beta_schedule", "no_such"),
        ("num_train_timesteps", 10**9),
        ("num_train_timesteps", "many"),
        ("beta_end", -0.5),
        ("trained_betas", [0.1]),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(tmp_path: Path, key: str, value: object) -> None:
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(ConfigError, match=r"^denoiser\.path: .*scheduler_config\.json: ") as caught:
        build_denoiser(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"_class_name": "DDIMScheduler"}, None),  # diffusers' defaults are this schedule
        ({"_class_name": "EulerDiscreteScheduler"}, None),
        ({}, None),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1348.0}, "ScoreSdeVeScheduler is no variance-preserving"),
        ({"_class_name": "KarrasVeScheduler"}, "KarrasVeScheduler"),
        ({"_class_name": "IPNDMScheduler"}, "IPNDMScheduler is no variance-preserving"),
        ({"_class_name": "UNet2DModel"}, "'UNet2DModel', which is no scheduler"),
        ({"_class_name": "no_such"}, "'no_such', which is no scheduler"),
        ({"_class_name": "LCMScheduler"}, "LCMScheduler is no variance-preserving"),
        ({"_class_name": "EulerDiscreteScheduler", "use_flow_sigmas": True}, "use_flow_sigmas is True"),
        (
            {"_class_name": "CMStochasticIterativeScheduler", "sigma_data": 0},
            "sigma_data is 0; accepted: a number",
        ),
    ],
)
def test_a_scheduler_means_what_its_class_says(tmp_path: Path, scheduler: dict, message: str | None) -> None:
    tiny_unet().save_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler))
    if message is None:
        assert build_denoiser(str(tmp_path)).channels == 1
        return
    with pytest.raises(ConfigError, match=message) as caught:
        build_denoiser(str(tmp_path))
    assert str(caught.value).startswith("denoiser.path") and "\n" not in str(caught.value)


def test_latent_denoisers_are_refused(tmp_path: Path) -> None:
    tiny_unet().save_pretrained(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text(
        '{"unet": ["diffusers", "UNet2DModel"], "vqvae": ["diffusers", "VQModel"]}'
    )
    with pytest.raises(ConfigError, match=r"denoiser\.path.*has a vqvae"):
        build_denoiser(str(tmp_path))


@pytest.mark.parametrize("form", ["unet", "pipeline"])
@pytest.mark.parametrize("beta_schedule", ["linear", "no_such"])
def test_hub_ids_are_checked_as_folders_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, beta_schedule: str
) -> None:
    """A hub of one checkpoint: what it holds is learnt from its configs, before any weights are fetched."""
    scheduler = DDPMScheduler()
    scheduler.register_to_config(beta_schedule=beta_schedule)
    if form == "unet":
        tiny_unet().save_pretrained(tmp_path)
        scheduler.save_pretrained(tmp_path)
    else:
        DDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path)
    fetched: list[str] = []

    def snapshot(identifier: str, allow_patterns: list[str], revision: str | None = None) -> str:
        assert revision in ({None} if not fetched else {tmp_path.name})
        fetched.extend(f for f in map(str, tmp_path.rglob("*")) if f.removeprefix(f"{tmp_path}/") in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("hetpure.models.diffusers_folder.snapshot_download", snapshot)
    if beta_schedule == "linear":
        assert network_content(build_denoiser("owner/name")) == network_content(DiffusersDenoiser(tiny_unet()))
        weights = "unet/diffusion_pytorch_model" if form == "pipeline" else "diffusion_pytorch_model"
        assert fetched.pop() == str(tmp_path / f"{weights}.safetensors")
    else:
        with pytest.raises(ConfigError, match=r"denoiser\.path.*no_such is not implemented"):
            build_denoiser("owner/name")
    assert fetched and all(name.endswith(".json") for name in fetched)


def empty(folder: Path) -> None:
    pass


def other_class(folder: Path) -> None:
    (folder / "config.json").write_text('{"_class_name": "UNet2DModel", "sample_size": "large"}')


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_weights(folder: Path) -> None:
    tiny_unet().save_pretrained(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()


def cut_off(folder: Path) -> None:
    tiny_unet().save_pretrained(folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def lacks_a_tensor(folder: Path) -> None:
    tiny_unet().save_pretrained(folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state["conv_in.bias"]
    save_file(state, file, metadata={"format": "pt"})


def scheduler_no_json(folder: Path) -> None:
    tiny_unet().save_pretrained(folder)
    (folder / "scheduler_config.json").write_text("not json")


@pytest.mark.parametrize("spoil", [empty, other_class, no_json, no_weights, cut_off, lacks_a_tensor, scheduler_no_json])
def test_unreadable_folders_are_refused_on_one_line(tmp_path: Path, spoil) -> None:
    spoil(tmp_path)
    with pytest.raises(ConfigError) as caught:
        build_denoiser(str(tmp_path))
    assert str(caught.value).startswith("denoiser.path") and "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/no/such/folder", "no-such-folder", "./a/b", "a/b/c", "nobody/no-such-model"])
def test_missing_checkpoints_are_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"denoiser\.path"):
        build_denoiser(path)


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"denoiser\.format.*diffusers"):
        build_denoiser("x", "onnx")


@pytest.mark.parametrize(
    ("size", "shape", "fits"),
    [
        (8, (1, 8, 8), True),
        (8, (3, 8, 8), False),
        (8, (1, 16, 16), False),
        (8, (1, 8, 16), False),
        (None, (1, 32, 16), True),
        (None, (1, 32, 15), False),
    ],
)
def test_image_shapes_are_checked(size: int | None, shape: tuple[int, int, int], fits: bool) -> None:
    denoiser = DiffusersDenoiser(tiny_unet())
    denoiser.image_size = size
    if fits:
        denoiser.check_image_shape(shape)
    else:
        with pytest.raises(ConfigError, match="x".join(map(str, shape))):
            denoiser.check_image_shape(shape)


def test_a_denoiser_carries_its_schedule(tmp_path: Path) -> None:
    unet, schedule = tiny_unet(), Schedule(beta_end=0.03)
    denoiser = DiffusersDenoiser(unet, schedule)
    assert denoiser.schedule is Recomputed(Lowered(denoiser)).schedule is schedule
    assert DiffusersDenoiser(unet).schedule == Schedule()
    save_diffusers(unet, schedule, tmp_path)
    assert isinstance(build_denoiser(str(tmp_path)), MatchedDenoiser)
    save_diffusers(unet, Schedule(), tmp_path)
    assert build_denoiser(str(tmp_path)).schedule == Schedule()


def test_recomputed_gives_the_same_output_and_gradient_bit_for_bit(denoiser: DiffusersDenoiser) -> None:
    gradients = []
    for network in (denoiser, Recomputed(denoiser)):
        x = images(2).requires_grad_()
        out = network(x, 100)
        (gradient,) = torch.autograd.grad((out**2).sum(), x)
        gradients.append((out.detach(), gradient))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


def test_recomputed_calls_the_network_again_in_the_backward_pass_only() -> None:
    toy = ToyDenoiser()
    recomputed = Recomputed(toy)
    recomputed(images(1), 5)  # no gradient wanted
    assert toy.asked == [5]
    x = images(1).requires_grad_()
    out = recomputed(x, 6)
    assert toy.asked == [5, 6]
    out.sum().backward()
    assert toy.asked == [5, 6, 6]


def test_the_last_calls_may_keep_their_graph(denoiser: DiffusersDenoiser) -> None:
    """Those below from_t are not called again; the gradient is the same bits."""
    steps, again = (300, 200, 100, 0), list[int]()

    def gradient(network: Denoiser) -> Tensor:
        x = images(2).requires_grad_()
        out: Tensor = x
        for t in steps:
            out = 0.9 * out + 0.1 * network(out, t)
        again.clear()
        with after_calls([denoiser], lambda _module, arguments, _output: again.append(arguments[1])):
            (value,) = torch.autograd.grad((out**2).sum(), x)
        return value

    kept = gradient(denoiser)
    for from_t, expected in ((0.0, [0, 100, 200, 300]), (0.2, [200, 300]), (0.201, [300]), (1.0, [])):
        assert torch.equal(gradient(Recomputed(denoiser, from_t)), kept)
        assert again == expected


def test_recomputed_keeps_no_activations(denoiser: DiffusersDenoiser) -> None:
    def saved(network) -> int:
        sizes: list[int] = []
        x = images(2).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            network(x, 10)
        return sum(sizes)

    assert saved(denoiser) > 50 * saved(Recomputed(denoiser))
