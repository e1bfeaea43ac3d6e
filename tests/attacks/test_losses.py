import math

import pytest
import torch

from hetpure.attacks.losses import DLR, LOSSES, CrossEntropy, Margin, TargetedDLR
from hetpure.attacks.momentum import MomentumPGD
from hetpure.attacks.pgd import PGD
from hetpure.errors import ConfigError

LOGITS = torch.tensor([[2.0, -1.0, 0.5, 3.0], [4.0, 1.0, 0.0, 2.0], [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
LABEL = torch.tensor([3, 1, 0])  # right by 1; wrong by 3; a tie


def test_cross_entropy_in_closed_form() -> None:
    expected = [
        math.log(math.e**2 + math.e**-1 + math.e**0.5 + math.e**3) - 3.0,
        math.log(math.e**4 + math.e + 1 + math.e**2) - 1.0,
        math.log(2 * math.e + 2) - 1.0,
    ]
    assert CrossEntropy()(LOGITS, LABEL).tolist() == pytest.approx(expected)


def test_margin_in_closed_form() -> None:
    assert Margin()(LOGITS, LABEL).tolist() == [-1.0, 3.0, 0.0]


def test_dlr_in_closed_form() -> None:
    """Sorted: 3 2 .5 -1; 4 2 1 0; 1 1 0 0."""
    expected = [-(3 - 2) / (3 - 0.5), -(1 - 4) / (4 - 1), 0.0]
    assert DLR()(LOGITS, LABEL).tolist() == pytest.approx(expected)


def test_targeted_dlr_in_closed_form() -> None:
    expected = [-(3 - 0.5) / (3 - (0.5 - 1) / 2), -(1 - 4) / (4 - (1 + 0) / 2), -(1 - 0) / 1.0]
    loss = TargetedDLR(torch.tensor([2, 0, 3]))
    assert loss(LOGITS, LABEL).tolist() == pytest.approx(expected)
    chosen = torch.tensor([2, 0])
    assert loss.rows(chosen)(LOGITS[chosen], LABEL[chosen]).tolist() == pytest.approx([expected[2], expected[0]])


def test_dlr_does_not_care_for_shift_and_scale() -> None:
    for loss in (DLR(), TargetedDLR(torch.tensor([2, 0, 3]))):
        torch.testing.assert_close(loss(50.0 * LOGITS - 7.0, LABEL), loss(LOGITS, LABEL))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_differences_and_positive_losses_of_dlr_and_margin_mean_wrong(name: str) -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(50, 6, dtype=torch.float64, requires_grad=True), torch.randint(6, (50,))
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, label), logits)
    if name != "ce":
        wrong = logits.argmax(dim=1) != label
        assert torch.equal(LOSSES[name](logits, label) > 0, wrong) and wrong.any() and not wrong.all()


def test_targeted_dlr_gradient_is_the_finite_difference() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(20, 6, dtype=torch.float64, requires_grad=True), torch.randint(6, (20,))
    assert torch.autograd.gradcheck(lambda z: TargetedDLR((label + 2) % 6)(z, label), logits)


def test_an_unknown_loss_is_refused() -> None:
    for attack in (PGD, MomentumPGD):
        with pytest.raises(ConfigError, match=r"^loss is 'mse'; accepted: ce, margin, dlr"):
            attack(loss="mse")  # pyright: ignore[reportArgumentType]
