"""DiffHammer's selective attack (Wang et al. 2024): along the gradient of those draws that can be broken together."""

from functools import partial

from torch import Tensor
from torch.nn import functional

from hetpure.attacks.gradients import ExactGradient
from hetpure.attacks.losses import find_loss
from hetpure.attacks.momentum import AveragingPGD
from hetpure.attacks.norms import NORMS, Norm, NormName
from hetpure.attacks.search import Search
from hetpure.errors import require


class SelectivePGD(AveragingPGD):
    """Draws whose vulnerabilities are shared count; the others, which pull elsewhere, hardly do.

    Every iteration takes the losses L_i and the gradients g_i at the purified images of ``attack.eot`` draws, without a
    graph of the purifier. ``select_draws`` weights the draws and joins their gradients (EM). The joined gradient is
    brought back to the image through the most representative draw (gradient grafting): one backward pass through the
    purifier, however many draws there are. Iterations are averaged by stepwise EM, g <- v g_i + (1 - v) g with
    v = (i + 1)^-alpha, i from 0. The step is ``AveragingPGD``'s, where the public code has PGD's or APGD's.

    Text and public code part; defaults are the code's. The text iterates the E-step to a maximum; the code has a loop
    but discards what it computes, which is one step (``em_steps``). In the text both ends of the E-step's displacement
    are in the ball, in the code its length is 1 (``reach``). To choose the representative draw, the text has the same
    sigmoid, the code ELU. The text divides by the number of draws, the code by the sum of weights. Three slips of the
    code are mended: a chosen draw is replayed with all of its noise, not with its first noise alone; the gradient
    always is that of the present image; and weights that all underflow keep their ratio.

    Args:
        norm, eps, steps, step_size, checks, evaluations: see ``AveragingPGD``.
        loss: what is maximised; selection takes it to be 0 at the decision boundary, as ``margin`` is.
        grafts: draws, at most ``attack.eot``, through which gradients are brought back; each has weights of its own.
        sharpness: lambda of the weights sigmoid(lambda L).
        reach: the displacement, at the purified images, of the E-step.
        em_steps: iterations of EM.
        alpha: exponent of the averaging over iterations, 0 or more; 0 averages nothing.
    """

    sees_loss_alone = False

    def __init__(
        self,
        norm: NormName = "Linf",
        eps: float = 8 / 255,
        steps: int = 100,
        step_size: float = 0.25,
        loss: str = "margin",
        grafts: int = 1,
        sharpness: float = 5.0,
        reach: float = 1.0,
        em_steps: int = 1,
        alpha: float = 0.5,
        checks: int = 4,
        evaluations: int = 20,
    ) -> None:
        super().__init__(norm, eps, steps, step_size, loss, checks, evaluations)
        require(grafts >= 1, "grafts", grafts, "1 or more")
        require(sharpness >= 0.0, "sharpness", sharpness, "0 or more")
        require(reach >= 0.0, "reach", reach, "0 or more")
        require(em_steps >= 1, "em_steps", em_steps, "1 or more")
        require(alpha >= 0.0, "alpha", alpha, "0 or more")
        self.grafts, self.sharpness, self.reach, self.em_steps, self.alpha = grafts, sharpness, reach, em_steps, alpha

    def purifications(self, gradient: ExactGradient) -> int:
        return gradient.purifications + gradient.graft_purifications * min(self.grafts, gradient.eot)

    def update(self, mean: Tensor, search: Search, rows: Tensor, images: Tensor, step: int) -> Tensor:
        settings = (NORMS[self.norm], self.eps, self.grafts, self.sharpness, self.reach, self.em_steps)
        select = partial(select_draws, *settings)
        value = search.graft(rows, images, select, find_loss(self.loss)).value
        share = (step + 1) ** -self.alpha
        return share * value + (1.0 - share) * mean

    def __str__(self) -> str:
        grafts = f"{self.grafts} grafts" if self.grafts > 1 else None
        return self.title("selective PGD", f"{self.steps} steps", self.loss if self.loss != "margin" else None, grafts)


def select_draws(
    norm: Norm, eps: float, grafts: int, sharpness: float, reach: float, em_steps: int, loss: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """EM over the draws of one image: which are representative, and the gradients to graft on those.

    With the losses L_i of N draws, (N,), their gradients g_i at the purified images, (N, C, H, W), and the norm's
    steepest direction u(.):

    * representative are the draws k with the largest sum_i ELU(L_i + eps <u(g_k), g_i>): a step along their gradient
      breaks most;
    * r = g_k of the first of them; ``em_steps`` times
      E: w_i = sigmoid(sharpness * (L_i + reach <u(r), g_i>)), M: r = sum_i w_i g_i / sum_i w_i;
    * grafted on draw k is sum_i w_ik g_i / sum_i w_ik with w_ik = w_i softmax_k(cos(g_i, g_k)), r where k is one.

    Returns:
        The draws' numbers (K,) and the gradients (K, C, H, W), K = ``grafts`` or N where that is less.
    """
    flat = gradient.flatten(1)
    gain = norm.direction(gradient).flatten(1) @ flat.T  # (N, N): what a step along one draw's gradient gains on others
    broken = functional.elu(loss + eps * gain).sum(dim=1)
    chosen = broken.argsort(descending=True, stable=True)[:grafts]
    direction, log_weight = gradient[chosen[:1]], loss
    for _ in range(em_steps):
        gain = flat @ norm.direction(direction).flatten()
        # In logarithms: weights may all be too small for a float, and their ratio still counts.
        log_weight = functional.logsigmoid(sharpness * (loss + reach * gain))
        direction = (log_weight.softmax(dim=0) @ flat).view(direction.shape)
    unit = NORMS["L2"].direction(gradient).flatten(1)
    alike = (unit @ unit[chosen].T).log_softmax(dim=1)  # (N, K)
    weight = (log_weight[:, None] + alike).softmax(dim=0)
    return chosen, (weight.T @ flat).view(len(chosen), *gradient.shape[1:])
