import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from hetpure.evaluation.records import Record, RecordStore, scores_of


def record(index: int, label: int = 1, adversarial: bool = True) -> Record:
    return Record(index, label, [0.1 + index, 0.2], [0.3, 1 / 3] if adversarial else [], [1.5, 2.5], 0.25)


def test_records_come_back_as_they_were_in_order_of_their_index(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "row")
    store.append([record(7), record(3)], torch.rand(2, 1, 4, 4))
    store.append([record(5)], torch.rand(1, 1, 4, 4))
    assert store.read() == [record(3), record(5), record(7)]


def test_scores_and_images_survive_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scores, image = torch.randn(5), torch.rand(1, 3, 8, 8)
    scores[0] = 1e-30
    store = RecordStore(tmp_path)
    store.append([Record(0, 1, scores.tolist(), scores.tolist(), [], 0.0)], image)
    assert torch.equal(torch.tensor(RecordStore(tmp_path).read()[0].clean), scores)
    found = store.adversarial(0)
    assert found is not None and torch.equal(found, image[0])


def test_an_unattacked_sample_has_no_image(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.append([record(0, adversarial=False)], None)
    assert store.adversarial(0) is None and store.adversarial(1) is None


def test_an_empty_store(tmp_path: Path) -> None:
    assert RecordStore(tmp_path / "none").read() == []


def test_every_process_has_its_own_file_and_all_are_read(tmp_path: Path) -> None:
    for rank, index in ((0, 4), (1, 2), (11, 9)):
        RecordStore(tmp_path, rank).append([record(index)], torch.rand(1, 1, 2, 2))
    assert [r.index for r in RecordStore(tmp_path).read()] == [2, 4, 9]
    assert len(list(tmp_path.glob("samples-*.jsonl"))) == 3


def test_a_sample_counts_once(tmp_path: Path) -> None:
    for rank in (0, 1):
        RecordStore(tmp_path, rank).append([record(4), record(rank + 10)], torch.rand(2, 1, 2, 2))
    assert [r.index for r in RecordStore(tmp_path).read()] == [4, 10, 11]


@pytest.mark.parametrize("cut", [1, 2, 30, -1, -10])
def test_a_line_cut_short_is_left_out_and_swallows_nothing(tmp_path: Path, cut: int) -> None:
    store = RecordStore(tmp_path)
    store.append([record(0), record(1)], torch.rand(2, 1, 2, 2))
    whole = json.dumps(asdict(record(2))) + "\n"
    with store.file.open("a") as file:
        file.write(whole[: cut if cut > 0 else len(whole) + cut - 1])
    assert [r.index for r in store.read()] == [0, 1]
    store.append([record(2), record(3)], torch.rand(2, 1, 2, 2))
    assert store.read() == [record(k) for k in range(4)]


def test_a_file_cut_anywhere_reads_as_a_prefix(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.append([record(k) for k in range(3)], torch.rand(3, 1, 2, 2))
    content = store.file.read_bytes()
    for size in range(0, len(content), 7):
        store.file.write_bytes(content[:size])
        found = store.read()
        assert found == [record(k) for k in range(len(found))]
        assert len(found) in (content[:size].count(b"\n"), content[: size + 1].count(b"\n"))


def test_a_batch_without_its_lines_is_as_if_it_never_was(tmp_path: Path) -> None:
    """Images are written first: killed in between, the sample is done again and its image replaced."""
    store = RecordStore(tmp_path)
    old, new = torch.rand(1, 1, 2, 2), torch.rand(1, 1, 2, 2)
    store.append([record(5)], old)
    store.file.unlink()
    assert store.read() == []
    store.append([record(5)], new)
    found = store.adversarial(5)
    assert found is not None and torch.equal(found, new[0])
    assert not list(tmp_path.rglob("*.part"))


def test_scores_of_those_that_have_them(tmp_path: Path) -> None:
    records = [record(0, label=1), record(1, label=0, adversarial=False)]
    scores, labels = scores_of(records, "clean")
    torch.testing.assert_close(scores, torch.tensor([[0.1, 0.2], [1.1, 0.2]]))
    assert labels.tolist() == [1, 0]
    scores, labels = scores_of(records, "adversarial")
    assert scores.shape == (1, 2) and labels.tolist() == [1]
    assert len(scores_of([], "clean")[1]) == 0


def test_scores_that_are_no_numbers_are_kept(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.append([Record(0, 0, [math.nan, math.inf], [], [], 0.0)], None)
    (found,) = store.read()
    assert math.isnan(found.clean[0]) and math.isinf(found.clean[1])
