from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hetpure.defense.batch import AttackedImages
from hetpure.defense.classifier import PurifiedClassifier, chunk_indices
from hetpure.defense.protocols import ensemble_scores
from hetpure.errors import ConfigError
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import DiffusersDenoiser
from hetpure.noise import Draws, defense_draws
from hetpure.purification.base import Purifier
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.purification.none import NoPurifier
from hetpure.purification.uniform import UniformPurifier
from tests.toys import images

BLOCKS = ["block1", "block2"]


def heterogeneous(denoiser: DiffusersDenoiser, classifier: Classifier, **settings) -> HeterogeneousPurifier:
    return HeterogeneousPurifier(denoiser, classifier, **{"blocks": BLOCKS, "grid_size": 50, "tau": 0.7, **settings})


def model_of(denoiser, classifier, **settings) -> PurifiedClassifier:
    settings = {"ensemble_size": 3, "chunk_size": 8, **settings}
    return PurifiedClassifier(
        classifier, heterogeneous(denoiser, classifier), 10, **{"ensemble_mode": "mean_logits", **settings}
    )


def test_ensemble_scores_by_hand() -> None:
    # One image, three purifications, two classes. Softmaxes: (.5, .5), (.75, .25) and (1/(1+e^4), ..).
    log3, e4 = 1.0986122886681098, 54.598150033144236
    logits = torch.tensor([[[1.0, 1.0], [log3, 0.0], [-4.0, 0.0]]], dtype=torch.float64)
    mean_logits = [(1.0 + log3 - 4.0) / 3, 1.0 / 3]
    mean_probs = [(0.5 + 0.75 + 1 / (1 + e4)) / 3, (0.5 + 0.25 + e4 / (1 + e4)) / 3]
    assert ensemble_scores(logits, "mean_logits")[0].tolist() == pytest.approx(mean_logits)
    assert ensemble_scores(logits, "mean_probs")[0].tolist() == pytest.approx(mean_probs)
    assert ensemble_scores(logits, "vote")[0].tolist() == pytest.approx([2 / 3, 1 / 3])  # a tie goes to the first


def test_the_modes_can_disagree() -> None:
    """Two purifications lean to class 0, the third is sure of class 1: averages and votes part."""
    logits = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 9.0]]])
    assert ensemble_scores(logits, "vote").argmax() == 0
    assert ensemble_scores(logits, "mean_logits").argmax() == 1


@pytest.mark.parametrize("mode", ["mean_logits", "mean_probs", "vote"])
def test_forward_is_algorithm_3(denoiser: DiffusersDenoiser, classifier: Classifier, mode: str) -> None:
    """A plain double loop, one purification at a time."""
    model = model_of(denoiser, classifier, ensemble_mode=mode, seed=4)
    x, sample = images(3), torch.tensor([11, 5, 300])
    expected = []
    for i in range(3):
        scores = []
        for draw in range(3):
            draws = Draws(4, "defense", sample[i : i + 1], torch.tensor([draw]))
            logits = classifier(model.purifier(x[i : i + 1], draws))[0]
            if mode == "mean_logits":
                scores.append(logits)
            elif mode == "mean_probs":
                scores.append(logits.softmax(0))
            else:
                scores.append(torch.eye(10)[logits.argmax()])
        expected.append(torch.stack(scores).mean(0))
    torch.testing.assert_close(model(x, sample), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_samples_are_numbered_from_0_by_default(denoiser, classifier) -> None:
    model = model_of(denoiser, classifier)
    x = images(3)
    assert torch.equal(model(x), model(x, torch.arange(3)))
    assert not torch.equal(model(x), model(x, torch.arange(3) + 1))


@pytest.mark.parametrize(("count", "size"), [(1, 4), (4, 4), (5, 4), (11, 4), (3, 1), (0, 4)])
def test_chunks_are_of_one_shape_and_cover_every_row_once(count: int, size: int) -> None:
    rows: list[int] = []
    for index, real in chunk_indices(count, size):
        assert len(index) == size and 0 < real <= size
        assert index.min() >= 0 and index.max() < count
        rows += index[:real].tolist()
    assert rows == list(range(count))


def test_networks_see_one_batch_shape_only(denoiser, classifier) -> None:
    class Watching(UniformPurifier):
        shapes: set = set()  # noqa: RUF012

        def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
            self.shapes.add((tuple(x.shape), len(draws)))
            return super().purify(x, draws, *prepared)

    purifier = Watching(denoiser, 0.2, 10)
    model = PurifiedClassifier(classifier, purifier, 10, ensemble_size=3, chunk_size=4)
    for batch in (1, 2, 5):
        model(images(batch))
    assert purifier.shapes == {((4, 1, 8, 8), 4)}


def test_batches_of_1_4_and_16_agree_bit_for_bit(denoiser, classifier) -> None:
    model = model_of(denoiser, classifier, chunk_size=8)
    x, sample = images(16), torch.arange(16) * 3
    whole = model(x, sample)
    pictures = model.purified_images(x, defense_draws(0, sample, 3)).unflatten(0, (16, 3))
    for size in (1, 4):
        for start in range(0, 16, size):
            part = slice(start, start + size)
            assert torch.equal(model(x[part], sample[part]), whole[part])
            draws = defense_draws(0, sample[part], 3)
            assert torch.equal(model.purified_images(x[part], draws).unflatten(0, (size, 3)), pictures[part])
    order = torch.randperm(16)
    assert torch.equal(model(x[order], sample[order]), whole[order])


def test_chunk_sizes_agree_to_1e_4_on_a_purification(denoiser, classifier) -> None:
    x, sample = images(5), torch.arange(5)
    draws = defense_draws(0, sample, 3)
    whole = model_of(denoiser, classifier, chunk_size=64).purified_images(x, draws)
    for size in (1, 4, 7):
        other = model_of(denoiser, classifier, chunk_size=size).purified_images(x, draws)
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-4)


def test_a_purifier_that_is_not_stochastic_runs_once(classifier) -> None:
    model = PurifiedClassifier(classifier, NoPurifier(), 10, ensemble_size=20, chunk_size=4)
    assert model.ensemble_size == 1
    x = images(6)
    torch.testing.assert_close(model(x), classifier(x), rtol=1e-6, atol=1e-5)


def test_what_depends_on_the_image_alone_is_computed_once_per_image(classifier) -> None:
    class Counting(Purifier):
        prepared_rows = 0

        def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
            assert not torch.is_grad_enabled()
            self.prepared_rows += len(x)
            return (x.mean(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3)))

        def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
            torch.testing.assert_close(prepared[0], x.mean(dim=(1, 2, 3), keepdim=True))
            torch.testing.assert_close(prepared[1], x.amax(dim=(1, 2, 3)))
            return x

    purifier = Counting()
    PurifiedClassifier(classifier, purifier, 10, ensemble_size=5, chunk_size=4)(images(8))
    assert purifier.prepared_rows == 8


def test_gradients_flow_through_the_whole_defense(denoiser64, classifier64) -> None:
    x = images(2, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(model_of(denoiser64, classifier64)(x).logsumexp(1).sum(), x)
    assert (gradient.abs().amax(dim=(1, 2, 3)) > 1e-6).all()


class Keep(lightning.Callback):
    """Remembers what ``test_step`` returns."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.outputs.append(outputs)


def attacked(x: Tensor, failures: dict[int, str] | None = None) -> AttackedImages:
    return AttackedImages(x, [], failures or {}, 4)


def test_the_trainer_tests_the_defense_itself(denoiser, classifier) -> None:
    model, keep = model_of(denoiser, classifier), Keep()
    x = images(5)
    items = [{"image": x[i], "label": i, "index": 10 * i} for i in range(5)]
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, inference_mode=False, callbacks=[keep],
    )  # fmt: skip
    trainer.test(model, DataLoader(items, batch_size=3), verbose=False)  # pyright: ignore
    scores = torch.cat([output.scores["clean"]["one-shot"] for output in keep.outputs])
    assert torch.equal(scores[:, 0], model(x, 10 * torch.arange(5)))
    assert [(output.failures, output.chunk_size, list(output.scores)) for output in keep.outputs] == [
        ({}, 8, ["clean"])
    ] * 2


def test_test_step_judges_both_sides_by_every_protocol(denoiser, classifier) -> None:
    model = model_of(denoiser, classifier, resubmissions=2, votes=4)
    x, sample = images(2), torch.tensor([7, 3])
    batch = {"image": x, "index": sample, "attacked": attacked(1 - x)}
    scores = model.test_step(batch, 0).scores
    assert [protocol.name for protocol in model.protocols] == ["one-shot", "best of 2", "majority of 4"]
    for side, images_of_side in (("clean", x), ("adversarial", 1 - x)):
        logits = model.purified_logits(images_of_side, defense_draws(0, sample, 6)).unflatten(0, (2, 6))
        assert torch.equal(scores[side]["one-shot"][:, 0], model(images_of_side, sample))
        torch.testing.assert_close(scores[side]["best of 2"], logits.unflatten(1, (2, 3)).mean(2))
        torch.testing.assert_close(scores[side]["majority of 4"][:, 0], ensemble_scores(logits[:, :4], "vote"))


def test_clean_and_adversarial_images_share_chunks(denoiser, classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of each side and of a checkpoint: 9 in two chunks of 8, not 3 in each of three."""
    model, x, sample = model_of(denoiser, classifier), images(3), torch.tensor([7])
    outcome = AttackedImages(x[1:2], [], {}, 8, {1: x[2:]})
    calls, purify = [], model.purifier.purify
    monkeypatch.setattr(model.purifier, "purify", lambda rows, *rest: calls.append(len(rows)) or purify(rows, *rest))
    found = model.test_step({"image": x[:1], "index": sample, "attacked": outcome}, 0)
    assert calls == [8, 8]
    of = (found.scores["clean"], found.scores["adversarial"], found.checkpoints[1])
    for part, scores in zip(x.split(1), of, strict=True):
        assert torch.equal(scores["one-shot"][:, 0], model(part, sample))


def test_test_step_names_the_samples_that_are_not_finite(classifier) -> None:
    model = PurifiedClassifier(classifier, NoPurifier(), 10, chunk_size=4)
    x, broken = images(3), images(3)
    broken[1] = torch.nan
    batch = {"image": x, "index": torch.tensor([5, 6, 7]), "attacked": attacked(broken, {7: "by the attack"})}
    failures = {6: "not finite in the defense, adversarial image: the image, NaN", 7: "by the attack"}
    assert model.test_step(batch, 0).failures == failures


def test_test_step_starts_again_with_smaller_chunks(classifier) -> None:
    class Hungry(NoPurifier):
        def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
            if len(x) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return x

    model, notes = PurifiedClassifier(classifier, Hungry(), 10, chunk_size=8), []
    model.notify = notes.append
    output = model.test_step({"image": images(3), "index": torch.arange(3)}, 0)
    assert output.chunk_size == model.chunk_size == 2 and len(notes) == 2


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("ensemble_size", {"ensemble_size": 0}),
        ("chunk_size", {"chunk_size": 0}),
        ("ensemble_mode", {"ensemble_mode": "max"}),
        ("votes", {"votes": -1}),
    ],
)
def test_impossible_arguments_are_refused_by_name(classifier, key: str, settings: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        PurifiedClassifier(classifier, NoPurifier(), 10, **settings)
    assert caught.value.key == key


def test_without_a_chunk_size_nothing_is_padded(denoiser, classifier) -> None:
    purifier = heterogeneous(denoiser, classifier)
    rows: list[int] = []
    free, fixed = (PurifiedClassifier(classifier, purifier, 10, 3, chunk_size=size) for size in (None, 64))
    assert (free.chunk_size, free.pads, fixed.pads, free.behind(NoPurifier()).pads) == (64, False, True, False)
    handle = denoiser.register_forward_hook(lambda module, arguments, output: rows.append(len(arguments[0])))
    found, expected = free(images(2)), fixed(images(2))
    handle.remove()
    assert set(rows[: len(rows) // 2]) == {6} and set(rows[len(rows) // 2 :]) == {64}
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0.0)
