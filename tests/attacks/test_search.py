import pytest
import torch
from torch import Tensor

from hetpure.attacks.gradients import Evaluation, ExactGradient, Gradient
from hetpure.attacks.losses import LOSSES, Loss
from hetpure.attacks.norms import NORMS
from hetpure.attacks.pgd import PGD
from hetpure.attacks.search import Search
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.models.denoisers import Recomputed
from hetpure.purification.uniform import UniformPurifier
from tests.toys import images

LABEL, SAMPLE = torch.tensor([3, 7, 1, 2]), torch.tensor([12, 40, 5, 900])


class ByBrightness:
    """A source in whose eyes an image is as right as its first pixel is bright, and whose margin is its second."""

    seed, eot, stochastic = 0, 1, True

    def __init__(self) -> None:
        self.tried: list[tuple[list[int], int]] = []
        self.asked: list[tuple[list[int], int]] = []

    def __call__(self, x: Tensor, label: Tensor, sample: Tensor, iteration: int, loss: Loss = LOSSES["ce"]) -> Gradient:
        self.asked.append((sample.tolist(), iteration))
        return Gradient(torch.ones_like(x), x.new_full((len(x),), float(iteration)), x[:, 0, 0, 0])

    def evaluate(self, x: Tensor, label: Tensor, sample: Tensor, count: int) -> Evaluation:
        self.tried.append((sample.tolist(), count))
        return Evaluation(x[:, 0, 0, 0], x[:, 0, 0, 1])


def image(correct: float, margin: float) -> Tensor:
    x = torch.zeros(1, 1, 2, 2)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = correct, margin
    return x


def candidates(*pairs: tuple[float, float]) -> Tensor:
    return torch.cat([image(*pair) for pair in pairs])


def test_the_image_that_fewest_evaluations_get_right_stays_and_broken_samples_are_left_alone() -> None:
    source = ByBrightness()
    clean = candidates((1.0, 0.0), (1.0, 0.0), (0.5, 0.2), (0.0, 0.0))
    search = Search(source, clean, LABEL, SAMPLE, 7)  # pyright: ignore
    search.offer(search.all, clean)
    assert search.open().tolist() == [0, 1, 2]
    search.offer(search.all, candidates((0.2, 0.0), (0.0, 0.0), (0.5, 0.1), (0.0, 9.0)))
    assert search.open().tolist() == [0, 2]
    search.offer(search.open(), candidates((0.3, 5.0), (0.5, 0.3)))
    expected = candidates((0.2, 0.0), (0.0, 0.0), (0.5, 0.3), (0.0, 0.0))
    assert torch.equal(search.image, expected)
    # One noisy evaluation never decides: each candidate is tried as often as was said, what is broken not at all.
    assert source.tried == [([12, 40, 5, 900], 7), ([12, 40, 5], 7), ([12, 5], 7)]


def test_observers_see_all_samples_at_every_iteration() -> None:
    seen: list[tuple[int, list[float]]] = []
    source = ByBrightness()
    x = candidates((1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0))
    search = Search(source, x, LABEL, SAMPLE, 1, lambda i, g: seen.append((i, g.loss.tolist())))  # pyright: ignore
    search.ask(search.all, x, LOSSES["ce"])
    search.ask(torch.tensor([1, 3]), x[[1, 3]], LOSSES["ce"])
    search.skip(1)
    assert seen == [(0, [0, 0, 0, 0]), (1, [0, 1, 0, 1]), (2, [0, 1, 0, 1])]
    assert source.asked == [([12, 40, 5, 900], 0), ([40, 900], 1)]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_random_starts_are_keyed_and_lie_on_the_ball(norm: str) -> None:
    source, x = ByBrightness(), 0.4 + 0.2 * images(4)
    search = Search(source, x, LABEL, SAMPLE, 1)  # pyright: ignore
    first, second = (search.start(search.all, NORMS[norm], 0.1) for _ in range(2))
    torch.testing.assert_close(NORMS[norm].size(first - x), torch.full((4,), 0.1), rtol=1e-4, atol=0)
    assert not torch.equal(first, second)
    alone = Search(source, x[2:3], LABEL[2:3], SAMPLE[2:3], 1)  # pyright: ignore
    assert torch.equal(alone.start(alone.all, NORMS[norm], 0.1), first[2:3])
    wide = search.start(search.all, NORMS[norm], 100.0)
    assert wide.min() == 0 and wide.max() == 1


@pytest.fixture(scope="module")
def gradient(denoiser, classifier) -> ExactGradient:
    return ExactGradient(
        PurifiedClassifier(classifier, UniformPurifier(Recomputed(denoiser), 0.1, 20), 10, chunk_size=8), 2, 0
    )


def test_restarts_are_never_weaker_and_the_first_is_plain_pgd(gradient) -> None:
    x = images(4)
    label = gradient.scores(x, SAMPLE, 6).argmax(dim=1)
    plain = PGD("Linf", 0.03, 1, 0.005)(gradient, x, label, SAMPLE)
    one, three = (PGD("Linf", 0.03, 1, 0.005, restarts=n, evaluations=6)(gradient, x, label, SAMPLE) for n in (1, 3))
    assert torch.equal(one, plain)
    a, b = (gradient.evaluate(found, label, SAMPLE, 6) for found in (one, three))
    assert (b.correct <= a.correct).all()
    assert ((b.correct < a.correct) | (b.margin >= a.margin)).all()
    assert (three - x).abs().max() <= 0.03 + 1e-6
    assert not torch.equal(one, three), "no restart was ever better: nothing was tested"


def test_evaluations_use_draws_that_neither_gradients_nor_the_defense_see(gradient, monkeypatch) -> None:
    import hetpure.noise

    drawn: dict[str, list[Tensor]] = {"attack": [], "selection": [], "defense": []}
    normal = hetpure.noise.Draws.normal

    def remember(self, *args, **kwargs) -> Tensor:
        out = normal(self, *args, **kwargs)
        drawn[self.process] += list(out.view(-1, 64))
        return out

    monkeypatch.setattr(hetpure.noise.Draws, "normal", remember)
    x = images(4)
    PGD("Linf", 0.03, 2, 0.01, restarts=2, evaluations=3)(gradient, x, LABEL, SAMPLE)
    gradient.process(x, SAMPLE)
    rows = {name: {tuple(row.tolist()) for row in found} for name, found in drawn.items()}
    assert all(len(found) >= 12 for found in rows.values())
    assert not rows["selection"] & rows["attack"] and not rows["selection"] & rows["defense"]
    assert not rows["attack"] & rows["defense"]


@pytest.mark.parametrize("attack", [PGD("Linf", 0.05, 2, 0.02, "dlr", random_start=True, restarts=3, evaluations=4)])
def test_batches_agree_bit_for_bit(gradient, attack) -> None:
    x, label, sample = images(6), torch.arange(6), torch.arange(6) * 7
    seen: list[int] = []
    whole = attack(gradient, x, label, sample, lambda i, g: seen.append(i))
    assert seen == list(range(attack.steps))
    for size in (1, 4):
        for start in range(0, 6, size):
            part = slice(start, start + size)
            seen.clear()
            assert torch.equal(
                attack(gradient, x[part], label[part], sample[part], lambda i, g: seen.append(i)), whole[part]
            )
            assert seen == list(range(attack.steps))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("loss", {"loss": "mse"}), ("restarts", {"restarts": 0}), ("evaluations", {"evaluations": 0})],
)
def test_impossible_arguments_are_refused_by_name(name: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        PGD(**arguments)
