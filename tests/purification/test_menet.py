import numpy as np
import torch

from hetpure.purification.lorid import LowRankIterativePurifier, leading_projector
from hetpure.purification.menet import MENetPurifier
from tests.toys import ToyDenoiser, images, rows


def test_menet_is_usvt_of_the_masked_image() -> None:
    """Mask, numpy's SVD of the H x CW matrix cut at int(0.5 H), divided by the share kept: to 1e-10."""
    x = images(2, 3, dtype=torch.float64)
    found = MENetPurifier(0.6, 0.5)(x, rows(2))
    masks = (rows(2).uniform("mask", 0, (3, 8, 8), torch.float64) < 0.6).numpy()
    for image, mask, out in zip(x.numpy(), masks, found.numpy(), strict=True):
        wide = np.concatenate(list((2 * image - 1) * mask), axis=1)
        u, s, v = np.linalg.svd(wide, full_matrices=False)
        s[4:] = 0.0
        w = np.clip((u * s) @ v / mask.mean(), -1, 1)
        expected = np.stack([w[:, 8 * c : 8 * c + 8] for c in range(3)])
        np.testing.assert_allclose(out, (expected + 1) / 2, atol=1e-10)
    assert 0.4 < masks.mean() < 0.8


def test_keeping_everything_is_the_identity() -> None:
    x = images(2, 3, dtype=torch.float64)
    torch.testing.assert_close(MENetPurifier(1.0, 1.0)(x, rows(2)), x)


def test_equal_singular_values_on_one_side_of_the_cut_do_no_harm() -> None:
    """diag(3, 3, 1, 1): the projector on the first two has a gradient, SVD's own would be infinite."""
    gram = torch.diag(torch.tensor([3.0, 3.0, 1.0, 1.0], dtype=torch.float64))[None].requires_grad_()
    assert torch.autograd.gradcheck(lambda g: leading_projector(0.5 * (g + g.mT), 2), gram)
    blank = torch.zeros(1, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(MENetPurifier()(blank + 0.5, rows(1)).sum(), blank)
    assert gradient.isfinite().all()


def test_a_row_that_is_not_finite_leaves_the_others_alone() -> None:
    """They are the same bits as beside a finite one, and the row itself is NaN, forward and backward."""
    x = images(3, 3)
    broken = x.clone()
    broken[1, 0, 2, 3] = torch.nan
    low_rank = LowRankIterativePurifier(ToyDenoiser(), share=0.5).low_rank
    for purify in (lambda y: MENetPurifier(1.0, 0.5)(y, rows(3)), low_rank):
        found, expected = (purify(y.requires_grad_()) for y in (broken, x))
        assert torch.equal(found[::2], expected[::2]) and bool(found[1].isnan().any())
        gradients = [torch.autograd.grad(y.square().sum(), of)[0][::2] for y, of in ((found, broken), (expected, x))]
        assert torch.equal(*gradients) and bool(gradients[0].isfinite().all())
