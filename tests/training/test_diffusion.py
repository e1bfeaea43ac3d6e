from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from lightning import Callback

from hetpure.data import ImageDataModule
from hetpure.errors import ConfigError
from hetpure.training.config import OptimizerConfig, SamplesConfig, TimestepsConfig
from hetpure.training.diffusion import DiffusionTrainer, averaged, unet_arguments
from hetpure.training.fit import build_trainer, fit

UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
    "dropout": 0.1,  # draws in the forward pass must resume too
}


class Losses(Callback):
    """Loss of every batch; stops a run after some batches, as a time limit would."""

    def __init__(self, stop_after: int | None = None):
        self.losses: list[float] = []
        self.stop_after = stop_after

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        if self.stop_after is not None and len(self.losses) == self.stop_after:
            trainer.should_stop = True


def new_module(**changes: Any) -> DiffusionTrainer:
    torch.manual_seed(0)
    optimizer = OptimizerConfig(lr=1e-3, schedule="cosine", warmup_steps=3)
    return DiffusionTrainer(UNET, optimizer, **{"ema_decay": 0.9, "samples": SamplesConfig(count=0), **changes})


def train(output: Path, monkeypatch, steps: int = 12, stop_after: int | None = None, save_every: int = 100, **trainer):
    """Trains a tiny network; returns each batch's loss and the module."""
    recorder, module = Losses(stop_after), new_module()
    monkeypatch.setattr("hetpure.training.fit.build_trainer", lambda arguments, callbacks, **fixed: build_trainer(
        arguments, callbacks=[recorder, *callbacks], **fixed))  # fmt: skip
    data = ImageDataModule("digits", subset=8, batch_size=16, crop_padding=1)
    trainer = {
        "max_steps": steps,
        "val_check_interval": 5,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        **trainer,
    }
    fit(module, data, output, trainer=trainer, save_every=save_every)
    return recorder.losses, module


def weights(module: DiffusionTrainer) -> dict[str, torch.Tensor]:
    return {**module.denoiser.state_dict(prefix="denoiser."), **module.ema.state_dict(prefix="ema.")}


@pytest.mark.parametrize(("accumulate", "stop_after"), [(1, 7), (2, 7), (2, 8)])
def test_resumed_run_is_the_uninterrupted_run(tmp_path: Path, monkeypatch, accumulate: int, stop_after: int):
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": 1.0}
    whole, expected = train(tmp_path / "whole", monkeypatch, **options)
    before, _ = train(tmp_path / "parts", monkeypatch, stop_after=stop_after, **options)
    after, resumed = train(tmp_path / "parts", monkeypatch, **options)
    done = stop_after // accumulate * accumulate  # a step that was cut off starts again
    assert before == whole[:stop_after] and after == whole[done:]
    assert len(whole) == 12 * accumulate
    state = weights(resumed)
    assert all(torch.equal(value, state[key]) for key, value in weights(expected).items())


def test_killed_run_goes_on_from_the_last_save(tmp_path: Path, monkeypatch):
    whole, expected = train(tmp_path / "whole", monkeypatch)

    class KilledError(RuntimeError):
        pass

    def kill(self, *args):
        if self.trainer.global_step == 9:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionTrainer, "on_train_batch_start", kill, raising=False)
        with pytest.raises(KilledError):
            train(tmp_path / "parts", patch, save_every=4)
    after, resumed = train(tmp_path / "parts", monkeypatch)
    assert after == whole[8:]
    state = weights(resumed)
    assert all(torch.equal(value, state[key]) for key, value in weights(expected).items())


def test_finished_run_is_left_as_it_is_and_can_be_prolonged(tmp_path: Path, monkeypatch):
    _, first = train(tmp_path, monkeypatch, steps=6)
    again, second = train(tmp_path, monkeypatch, steps=6)
    assert again == []
    state = weights(second)
    assert all(torch.equal(value, state[key]) for key, value in weights(first).items())
    longer, _ = train(tmp_path, monkeypatch, steps=9)
    assert len(longer) == 3


def test_learns_a_tiny_batch():
    module = new_module()
    image = torch.from_numpy(np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32))
    t, noise = torch.tensor([100, 200, 300, 400]), torch.randn(4, 1, 8, 8)
    optimizer = torch.optim.Adam(module.denoiser.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        predicted = module.denoiser(module.objective.diffuse(image * 2 - 1, t, noise), t).sample
        loss = (predicted - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_export_is_the_average(tmp_path: Path, monkeypatch):
    _, module = train(tmp_path, monkeypatch, steps=4)
    module.export(tmp_path / "denoiser")
    loaded = UNet2DModel.from_pretrained(tmp_path / "denoiser", low_cpu_mem_usage=False).eval()
    assert sorted(p.suffix for p in (tmp_path / "denoiser").iterdir()) == [".json", ".json", ".safetensors"]
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    average = module.ema.module.state_dict()
    assert all(torch.equal(value, average[key]) for key, value in loaded.state_dict().items())
    assert not torch.equal(loaded.conv_in.weight, module.denoiser.conv_in.weight)
    with torch.no_grad():
        assert torch.allclose(loaded(x, t).sample, module(x, t), atol=1e-6)
    module.export(tmp_path / "half", torch.float16)
    half = UNet2DModel.from_pretrained(tmp_path / "half", torch_dtype=torch.float32, low_cpu_mem_usage=False)
    for key, value in half.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key].half().float())


def test_average_follows_with_a_ramp():
    layer = torch.nn.Linear(1, 1, bias=False)
    follower = averaged(layer, 0.5)
    values = [1.0, 2.0, 5.0, 3.0]
    expected = values[0]
    for n, value in enumerate(values):
        layer.weight.data.fill_(value)
        follower.update_parameters(layer)
        if n:
            decay = min(0.5, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * value
    assert follower.module.weight.item() == pytest.approx(expected)
    assert not any(p.requires_grad for p in follower.parameters())


def test_focus():
    module = new_module(timesteps=TimestepsConfig(focus=0.3, share=0.5))
    t = module.objective.draw_timesteps(20_000)
    assert int(t.min()) >= 0 and int(t.max()) <= 999
    assert float((t < 300).float().mean()) == pytest.approx(0.5 + 0.5 * 0.3, abs=0.02)
    uniform = new_module().objective.draw_timesteps(20_000)
    assert float((uniform < 300).float().mean()) == pytest.approx(0.3, abs=0.02)


def test_samples_are_images_and_repeat():
    module = new_module(samples=SamplesConfig(steps=4))
    first, more = module.sample(2), module.sample(3)
    assert first.shape == (2, 1, 8, 8) and float(first.min()) >= 0 and float(first.max()) <= 1
    assert torch.allclose(first, more[:2], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": TimestepsConfig(levels=[0, 1200])}, r"timesteps\.levels is \[0, 1200\]; accepted: rising"),
        ({"samples": SamplesConfig(4, steps=7)}, r"samples\.steps is 7; accepted: divisors of 1000"),
    ],
)
def test_values_that_do_not_fit_the_schedule(change: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        new_module(**change)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("denoiser.no_such=1", "denoiser.no_such: diffusers' UNet2DModel has no such argument"),
        ("denoiser.block_out_channels=[8,8,8,8,8]", "denoiser.block_out_channels: halves"),
        ("denoiser.in_channels=3", "denoiser.in_channels is 3; accepted: 1, as the data's images have it"),
        ("optimizer.name=lion", "optimizer.name is 'lion'; accepted: adam, adamw, sgd"),
        ("optimizer.schedule=step", "optimizer.schedule is 'step'; accepted: constant, cosine"),
        ("trainer.max_epochs=3", "trainer.max_epochs: is set by the command itself"),
        ("trainer.no_such=3", "trainer.no_such: unknown key"),
        ("trainer.max_steps=null", "trainer.max_steps is None"),
        ("export_dtype=int8", "export_dtype is 'int8'; accepted: float32, float16"),
        ("ema_decay=1.5", "ema_decay is 1.5; accepted: 0..1"),
        ("timesteps.focus=0", "timesteps.focus is 0.0; accepted: above 0 and up to 1"),
        ("timesteps.share=2", "timesteps.share is 2.0; accepted: 0..1"),
        ("optimizer.lr=-1", "optimizer.lr is -1.0; accepted: 0 or more"),
        ("save_every=0", "save_every is 0; accepted: 1 or more"),
        ("figures.levels=[30]", "figures.levels is 30; accepted: the grid's timesteps below 1000: multiples of 50"),
        ("figures.classifier={name: cifar_resnet8, weights: random, std: [0.0]}", "figures.classifier.std is [0.0]"),
        ("figures.classifier={name: cifar_resnet8}", "figures.classifier.weights is None, and cifar_resnet8"),
        ("data.subset=501", "data.subset is 501, but the test split has only 500 samples"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(override: str, message: str, tmp_path: Path, capsys):
    from hetpure.cli import main

    code = main(["train-diffusion", "--config", "digits_denoiser.yaml", f"output={tmp_path}", override])
    error = capsys.readouterr().err.strip()
    assert code == 2 and message in error and error.count("\n") == 0


def test_svhn_config_builds_its_network():
    from hetpure.config import read_config
    from hetpure.training.config import complete_diffusion as complete

    config = complete(read_config("svhn.yaml", []))
    arguments = unet_arguments(dict(config.denoiser), (3, 32, 32))
    with torch.device("meta"):
        unet = UNet2DModel(**arguments)
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(35.7e6, rel=0.01)  # DDPM's CIFAR-10 network
    assert unet.config["dropout"] == 0.1
