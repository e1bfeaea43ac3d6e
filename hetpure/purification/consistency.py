"""One-step purification with a consistency model (Song et al. 2023; Li et al. 2024)."""

from torch import Tensor

from hetpure.models.denoisers import Denoiser
from hetpure.noise import Draws
from hetpure.purification.base import Purifier, to_signed, to_unit
from hetpure.purification.sampling import check_level


class ConsistencyPurifier(Purifier):
    """Noise to t, then f(x(t), t), the consistency function's prediction of x(0), in one network call.

    A consistency model is read as a denoiser whose noise prediction eps stands for f = (x(t) - sqrt(1 - abar) eps) /
    sqrt(abar). With a denoiser that was trained to predict the noise, f is the posterior mean of the image.

    Args:
        denoiser: the consistency model.
        t: noise level, fraction of T.
    """

    def __init__(self, denoiser: Denoiser, t: float = 0.1) -> None:
        super().__init__()
        check_level(denoiser.schedule, t)
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.t = round(t * self.schedule.T)
        self.network_calls = 1

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        x_t = self._noisy(x, draws)
        return to_unit(self.schedule.predict_x0(x_t, self.t, self.denoiser(x_t, self.t)))

    def views(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        return {"noise": to_unit(self._noisy(x, draws)), **super().views(x, draws)}

    def _noisy(self, x: Tensor, draws: Draws) -> Tensor:
        x0 = to_signed(x)
        return self.schedule.diffuse(x0, self.t, draws.normal_like(x0, "diffuse", self.t))
