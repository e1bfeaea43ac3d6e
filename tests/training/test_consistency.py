"""Consistency distillation: the boundary, the teacher's step, and a student that becomes consistent."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hetpure.errors import ConfigError
from hetpure.models.denoisers import DiffusersDenoiser, build_denoiser
from hetpure.models.diffusers_folder import save_diffusers
from hetpure.purification.consistency import ConsistencyPurifier
from hetpure.purification.denoised_smoothing import DenoisedSmoothing
from hetpure.schedule import CLEAN, Schedule
from hetpure.training.config import OptimizerConfig, SamplesConfig
from hetpure.training.diffusion import DiffusionTrainer
from hetpure.training.objectives.consistency import ConsistencyObjective
from hetpure.training.objectives.registry import build_objective, complete_objective
from tests.toys import ToyDenoiser, abar, images, rows, tiny_unet

VP = Schedule()


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    save_diffusers(tiny_unet(), VP, tmp_path / "teacher")
    return str(tmp_path / "teacher")


def test_without_noise_the_function_is_the_identity(teacher: str) -> None:
    objective, x = ConsistencyObjective(teacher), images(3) * 2 - 1
    t = torch.tensor([CLEAN, 0, 300])
    predicted = objective.predict_x0(tiny_unet(), x, t)
    assert torch.equal(predicted[0], x[0]) and not torch.equal(predicted[1], x[1])
    network = DiffusersDenoiser(tiny_unet())
    expected = VP.predict_x0(x[2:], 300, network(x[2:], 300))
    torch.testing.assert_close(predicted[2:], expected, rtol=1e-4, atol=1e-4)


def test_the_target_is_the_students_after_the_teachers_step(teacher: str) -> None:
    """Against ``Schedule.ddim_step``, image by image, float32: 1e-4 of the largest error."""
    objective, student = ConsistencyObjective(teacher, stride=50), tiny_unet(seed=1).eval()
    x, t, own, guide = images(3), torch.tensor([20, 120, 399]), DiffusersDenoiser(student), build_denoiser(teacher)
    errors = objective.errors(student, {"image": x}, t, rows(3), 4)
    noise, expected = rows(3).normal_like(x, "noise", 4), []
    for i, step in enumerate(t.tolist()):
        x0, s = x[i : i + 1] * 2 - 1, max(step - 50, CLEAN)
        x_t = VP.diffuse(x0, step, noise[i : i + 1])
        x_s = VP.ddim_step(x_t, guide(x_t, step), step, s)
        target = x_s if s == CLEAN else VP.predict_x0(x_s, s, own(x_s, s))
        expected.append((VP.predict_x0(x_t, step, own(x_t, step)) - target).square().mean())
    torch.testing.assert_close(errors, torch.stack(expected), rtol=1e-3, atol=1e-4 * float(errors.max()))


def test_a_student_becomes_consistent(teacher: str, tmp_path: Path) -> None:
    """30 steps halve the inconsistency of another network; what is saved is what the purifier takes."""
    settings = complete_objective({"name": "consistency", "teacher": teacher, "stride": 100})
    objective = build_objective(settings, schedule=VP)
    student, x, t = tiny_unet(seed=1), images(16), torch.full((16,), 300)
    with torch.no_grad():
        before = objective.errors(student, {"image": x}, t, rows(16), 0).mean()
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(30):
            optimizer.zero_grad()
            objective.loss(student, {"image": x}).backward()
            optimizer.step()
    student.requires_grad_(False)
    assert objective.errors(student, {"image": x}, t, rows(16), 0).mean() < 0.5 * before
    objective.save(student, tmp_path / "student")
    purifier = ConsistencyPurifier(build_denoiser(str(tmp_path / "student")), 0.3)
    own = objective.purifier(student, 300, 10)
    torch.testing.assert_close(purifier(x, rows(16)), own(x, rows(16)), rtol=1e-5, atol=1e-5)


def test_one_call_is_denoised_smoothings() -> None:
    """At the timestep's own standard deviation, float64: 1e-12."""
    x, sigma = images(2, dtype=torch.float64), (1.0 / abar(250) - 1.0) ** 0.5 / 2.0
    smoothing = DenoisedSmoothing(ToyDenoiser(), sigma)
    assert smoothing.t == 250
    purified = ConsistencyPurifier(ToyDenoiser(), 0.25)(x, rows(2))
    torch.testing.assert_close(purified, smoothing(x, rows(2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("teacher", {"teacher": "no/such/folder"}),
        ("t_max", {"t_max": 0.0}),
        ("stride", {"stride": 0}),
        ("stride", {"stride": 401}),
        ("no_such", {"no_such": 1}),
    ],
)
def test_what_is_refused(key: str, change: dict[str, Any], teacher: str) -> None:
    with pytest.raises(ConfigError, match=rf"objective\.{key}"):
        build_objective(complete_objective({"name": "consistency", "teacher": teacher, **change}), schedule=VP)


def test_a_network_with_classes_is_refused(teacher: str) -> None:
    unet = {**dict(tiny_unet().config), "num_class_embeds": 11}
    arguments = {key: unet[key] for key in ("sample_size", "in_channels", "out_channels", "num_class_embeds")}
    with pytest.raises(ConfigError, match=r"denoiser\.num_class_embeds is 11; accepted: null with this objective"):
        DiffusionTrainer(
            {**arguments, "block_out_channels": [8, 8], "down_block_types": ["DownBlock2D"] * 2,
             "up_block_types": ["UpBlock2D"] * 2, "norm_num_groups": 4},
            OptimizerConfig(), objective=ConsistencyObjective(teacher), samples=SamplesConfig(count=0),
        )  # fmt: skip
