import pytest
import torch

from hetpure.defense.protocols import build_protocols, draws_needed, ensemble_scores
from hetpure.errors import ConfigError
from hetpure.runs.records import Record, shortest


def test_one_shot_alone_by_default() -> None:
    (protocol,) = build_protocols(4, "mean_logits")
    assert (protocol.name, protocol.draws) == ("one-shot", 4)


def test_all_protocols_look_at_the_same_purifications() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 12, 5)
    one, best, vote = protocols = build_protocols(4, "mean_probs", resubmissions=3, votes=7)
    assert [p.name for p in protocols] == ["one-shot", "best of 3", "majority of 7"]
    assert [p.mode for p in protocols] == ["mean_probs", "mean_probs", "vote"]
    assert draws_needed(protocols) == 12
    assert [p.scores(logits).shape for p in protocols] == [(3, 1, 5), (3, 3, 5), (3, 1, 5)]
    # By hand: softmax, mean over each four; counts of the first seven.
    each = logits.softmax(2).reshape(3, 3, 4, 5).mean(2)
    torch.testing.assert_close(best.scores(logits), each)
    assert torch.equal(one.scores(logits), best.scores(logits)[:, :1])
    counts = torch.stack([(logits[:, :7].argmax(2) == k).sum(1) for k in range(5)], dim=1) / 7
    torch.testing.assert_close(vote.scores(logits)[:, 0], counts)


@pytest.mark.parametrize(("key", "settings"), [("resubmissions", (0, 0)), ("votes", (1, -1))])
def test_impossible_numbers_are_refused(key: str, settings: tuple[int, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_protocols(4, "vote", *settings)
    assert caught.value.key == key


def test_more_votes_than_evaluations_need_more_purifications() -> None:
    assert draws_needed(build_protocols(4, "vote", 2, 20)) == 20


def test_a_vote_of_s_is_the_released_codes_prediction() -> None:
    logits = torch.randn(2, 6, 4)
    vote = build_protocols(6, "vote", votes=6)[1]
    assert torch.equal(vote.scores(logits)[:, 0], ensemble_scores(logits, "vote"))


@pytest.mark.parametrize(
    ("predictions", "right"), [([1], True), ([0], False), ([1, 1, 1], True), ([1, 0, 1], False), ([], None)]
)
def test_every_evaluation_must_be_right(predictions: list[int], right: bool | None) -> None:
    record = Record(0, "p", 1, predictions, [[0.0, 1.0]] * len(predictions), adversarial=predictions)
    assert record.right("clean") is right and record.right("adversarial") is right


def test_decimals_mean_the_same_bits() -> None:
    x = torch.randn(3, 50) * 10.0 ** torch.randint(-30, 30, (3, 50))
    assert torch.equal(torch.tensor(shortest(x)), x)
    assert len(str(shortest(torch.tensor([0.1]))[0])) == 3
