import pytest
import torch
from torch import Tensor

from hetpure.attacks.gradients import ExactGradient, Gradient
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.attacks.stadv import Flow, StAdv, roughness, warp
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.denoisers import Recomputed
from hetpure.purification.uniform import UniformPurifier
from hetpure.runs import honesty
from hetpure.runs.records import Record
from tests.toys import images

SAMPLE = torch.arange(3)


class Always:
    """The same gradient everywhere; remembers the images."""

    seed, eot, stochastic = 0, 1, False

    def __init__(self, value: Tensor) -> None:
        self.value, self.asked = value, []

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        self.asked.append(x)
        return Gradient(self.value, torch.zeros(len(x)), torch.zeros(len(x)))


def test_a_flow_is_in_units_of_half_the_sides_and_the_edge_goes_on() -> None:
    x = images(2, channels=3, size=8)[..., :6]  # not square: 8 x 6
    assert torch.allclose(warp(x, torch.zeros(2, 8, 6, 2)), x, rtol=0, atol=1e-6)
    flow = torch.zeros(2, 8, 6, 2)
    flow[..., 0], flow[..., 1] = 2 / 6, -2 * 2 / 8  # from one pixel to the right and two above
    right = torch.cat([x[..., 1:], x[..., -1:]], dim=-1)
    expected = torch.cat([right[:, :, :1], right[:, :, :1], right[:, :, :-2]], dim=2)
    torch.testing.assert_close(warp(x, flow), expected, rtol=0, atol=1e-6)


def test_roughness_is_the_papers_sum_over_four_neighbours() -> None:
    flow = torch.randn(1, 4, 5, 2, dtype=torch.float64)
    expected = 0.0
    for i in range(4):
        for j in range(5):
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= k < 4 and 0 <= m < 5:
                    expected += float((flow[0, i, j] - flow[0, k, m]).norm())
    assert float(roughness(flow)) == pytest.approx(expected, rel=1e-8)


def test_gradients_through_the_warp_agree_with_finite_differences() -> None:
    x = images(1, channels=2, size=5).double()
    flow = (0.2 * torch.randn(1, 5, 5, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda flow: warp(x, flow), flow)
    assert torch.autograd.gradcheck(roughness, flow)


def test_a_ramp_moves_by_eps_half_widths_in_closed_form() -> None:
    """On x = a + s * column a flow changes every pixel by s times its length, so signs of the gradient decide alone."""
    slope = 1 / 32
    x = 0.25 + slope * torch.arange(16.0).expand(1, 1, 16, 16)
    value = torch.randn(1, 1, 16, 16)
    found = StAdv(eps=0.05, steps=20, smoothness=0.0)(Always(value), x, SAMPLE[:1], SAMPLE[:1])  # pyright: ignore
    expected = x + slope * 0.05 * 8 * value.sign()
    torch.testing.assert_close(found[..., 1:-1], expected[..., 1:-1], rtol=0, atol=1e-6)


def test_smoothness_keeps_neighbours_together() -> None:
    x, value = images(1, size=16), torch.randn(1, 1, 16, 16)
    rough = []
    for weight in (0.0, 0.0025, 10.0):
        flow = Flow(x.clone(), 0.05, 0.01, weight / 0.05)
        for _ in range(30):
            flow.step(value)
        assert flow.flow.abs().max() <= 0.05
        rough.append(float(roughness(flow.flow.detach())))
    assert rough[0] > 1.05 * rough[1] and rough[1] > 5 * rough[2]


def test_batches_agree_bit_for_bit_and_every_image_is_a_warp(denoiser, classifier) -> None:
    purifier = UniformPurifier(Recomputed(denoiser), 0.1, 20)
    gradient = ExactGradient(PurifiedClassifier(classifier, purifier, 10, chunk_size=8), 2, 0)
    x, sample, label = images(5), torch.arange(5) * 7, torch.arange(5)
    attack, seen = StAdv(eps=0.2, steps=4, step_size=0.05), []
    whole = attack(gradient, x, label, sample, lambda i, g: seen.append(g.loss))
    assert len(seen) == attack.steps and (seen[-1] > seen[0]).all()
    assert whole.min() >= 0.0 and whole.max() <= 1.0 and not torch.equal(whole, x)
    for start in range(0, 5, 2):
        part = slice(start, start + 2)
        assert torch.equal(attack(gradient, x[part], label[part], sample[part]), whole[part])
    assert found_inside(whole, x, 0.2).passed is None, "what an image cannot show is not confirmed"
    assert found_inside(whole + 1e-3 * torch.eye(8), x, 1e-9).passed is False, "no pixel nearby has these values"


def found_inside(x_adv: Tensor, x: Tensor, eps: float) -> honesty.Verdict:
    records = [Record(k, "one-shot", 1, [1], [], [1], [], image="adversarial/0.npz") for k in range(len(x))]
    return honesty.inside(records, "StAdv", eps, lambda r: x_adv[r.index].numpy(), lambda k: x[k].numpy())


@pytest.mark.parametrize("margin", [0, 3])
def test_a_flow_that_is_much_too_long_is_seen_in_the_image(margin: int) -> None:
    x = images(4, size=16)
    flow = torch.full((4, 16, 16, 2), 0.05 * (1 + margin))
    flow[..., 0] *= -1.0
    verdict = found_inside(warp(x, flow), x, 0.05)
    assert verdict.passed is (False if margin else None), verdict


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("norm", {"norm": "Linf"}),
        ("eps", {"eps": 0.0}),
        ("steps", {"steps": 0}),
        ("step_size", {"step_size": 0.0}),
        ("smoothness", {"smoothness": -1.0}),
        ("loss", {"loss": "mse"}),
    ],
)
def test_impossible_arguments_are_refused_by_name(name: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        StAdv(**arguments)
