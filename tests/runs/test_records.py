import errno
import json
import re
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hetpure.runs.mend import mend
from hetpure.runs.records import Record, parse_line
from hetpure.runs.store import RecordStore


def record(index: int, protocol: str = "one-shot", image: str | None = None) -> Record:
    return Record(
        index, protocol, 1, [1], [[0.1, 0.2 + index]], [1], [[0.3, 1 / 3]], [1.5, 2.5], [0.1, 0.2], [1.0, 0.5],
        0.25, 7, 3, {"attack": 4, "defense": 8}, image,
    )  # fmt: skip


def batch(store: RecordStore, *indices: int, images: torch.Tensor | None = None) -> list[Record]:
    """Appends a batch with images and gives back what it should read as."""
    found = {k: torch.rand(1, 2, 2) if images is None else images[i] for i, k in enumerate(indices)}
    name = store.image_name(found)
    records = [replace(record(k, p), image=name) for k in indices for p in store.protocols]
    store.append(records, found)
    return records


def test_records_come_back_as_they_were_in_order_of_their_index(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "row", ["a", "b"])
    seven, three = batch(store, 7, 3)[:2], batch(store, 5)
    assert [(r.index, r.protocol) for r in store.read()] == [(k, p) for k in (3, 5, 7) for p in "ab"]
    assert store.read()[4:] == seven and store.read()[2:4] == three
    assert store.done() == {3, 5, 7}


def test_images_survive_bit_for_bit_and_anyone_reads_them(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 8, 8)
    images[0, 0, 0, 0] = 1e-42
    store = RecordStore(tmp_path)
    first, second = batch(store, 9, 4, images=images)
    for r, image in ((first, images[0]), (second, images[1])):
        found = store.adversarial(r)
        assert found is not None and found.tobytes() == image.numpy().tobytes()
    assert first.image == "adversarial/000009.npz"
    with np.load(tmp_path / first.image, allow_pickle=False) as file:
        assert sorted(file) == ["4", "9"] and file["4"].dtype == np.float32


def test_images_are_compact_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    """Signed steps leave few distinct values: under 60 % of float32's bytes."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, 256, (1, 3, 64, 64), generator=generator) / 255
    image = (clean + torch.randint(-4, 5, clean.shape, generator=generator) * 0.007).clamp(0, 1)
    for name in "ab":
        batch(RecordStore(tmp_path / name), 0, images=image)
    a, b = ((tmp_path / name / "adversarial" / "000000.npz").read_bytes() for name in "ab")
    assert a == b and len(a) < 0.6 * image.numel() * 4
    with zipfile.ZipFile(tmp_path / "a" / "adversarial" / "000000.npz") as archive:
        assert archive.testzip() is None


def test_an_unattacked_sample_has_no_image(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.append([record(0)])
    assert store.adversarial(store.read()[0]) is None


def test_an_empty_store(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "none")
    mend(store)
    assert store.read() == [] and not (tmp_path / "none").exists()


def test_every_process_has_its_own_file_and_all_are_read(tmp_path: Path) -> None:
    for rank, index in ((0, 4), (1, 2), (11, 9)):
        batch(RecordStore(tmp_path, rank=rank), index)
    assert [r.index for r in RecordStore(tmp_path).read()] == [2, 4, 9]
    assert len(list(tmp_path.glob("samples-*.jsonl"))) == 3


def test_a_sample_counts_once(tmp_path: Path) -> None:
    for rank in (0, 1):
        batch(RecordStore(tmp_path, rank=rank), 4, rank + 10)
    assert [r.index for r in RecordStore(tmp_path).read()] == [4, 10, 11]


def test_a_file_cut_anywhere_is_mended_to_whole_samples(tmp_path: Path) -> None:
    """Killed at any byte: what is left is whole samples, and appending goes on as if nothing had been."""
    store = RecordStore(tmp_path, ["a", "b"])
    whole = [batch(store, 0, 1), batch(store, 2)]
    records = sorted((r for part in whole for r in part), key=lambda r: r.index)
    content = store.file.read_bytes()
    for size in range(0, len(content) + 1, 11):
        store.file.write_bytes(content[:size])
        left = store.read()
        assert left == records[: len(left)] and len(left) == content[:size].count(b"\n") // 2 * 2
        mend(store)
        assert store.read() == left and store.file.read_bytes().count(b"\n") == len(left)
        rest = records[len(left) :]
        if rest:
            store.append(rest)
        assert store.read() == records and store.file.read_bytes() == content


def test_a_file_with_a_line_that_is_no_record_is_kept_whole_beside_the_records(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "row")
    batch(store, 0)
    before = store.file.read_bytes()
    for copy in ("samples-000.jsonl.damaged", "samples-000.jsonl.damaged-2"):
        with store.file.open("a") as file:
            file.write(json.dumps({"index": 3, "other": 1}) + "\n")
        content = store.file.read_bytes()
        assert store.problems() == [
            "row/samples-000.jsonl: line 2 has an unknown key 'other'; such records do not count"
        ]
        (text,) = mend(store)
        assert text.startswith("row/samples-000.jsonl: line 2 has an unknown key 'other'; kept as " + copy)
        assert (store.folder / copy).read_bytes() == content
        assert store.file.read_bytes() == before and store.done() == {0} and not store.problems()


def test_a_lost_image_makes_its_sample_undone_and_no_other(tmp_path: Path) -> None:
    """The file that two samples of a batch need stays; the new image goes to a file of its own."""
    store = RecordStore(tmp_path / "row")
    first = batch(store, 5, 2)[1]
    kept = store.adversarial(first)
    file = store.folder / "adversarial" / "000005.npz"
    with np.load(file) as archive:
        np.savez(file, **{"2": archive["2"], "5": archive["5"] + 7})
    (damaged, rewritten) = mend(store)
    assert damaged == "row/adversarial/000005.npz damaged; sample 5 evaluated again"
    assert "records of sample 5 have lost their image" in rewritten
    assert store.done() == {2}
    again = batch(store, 5)[0]
    assert again.image == "adversarial/000005-1.npz" and store.done() == {2, 5}
    found = store.adversarial(first)
    assert found is not None and kept is not None and found.tobytes() == kept.tobytes()


def test_contradictory_records_count_on_neither_side(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "row")
    (one,) = batch(store, 4)
    store.append([replace(one, seconds=9.0)])
    assert store.read() == [one], "only the time differs: the same sample, twice"
    RecordStore(store.folder, rank=1).append([replace(one, label=0)])
    assert store.read() == [] and store.problems() == ["row/sample 4: contradictory records, which do not count"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "is no JSON"),
        (b"[" * 100_000, "is no JSON: nested too deeply"),
        (b"[]", "is a list"),
        (b'{"index": 1}', "lacks 'protocol'"),
        (b'{"index": true, "protocol": "a", "label": 1, "clean": [1], "clean_scores": []}', "has index True"),
        (b'{"index": 1, "protocol": "a", "label": 1, "clean": [1], "clean_scores": [[NaN]]}', "NaN is no number"),
        (b'{"index": 1, "protocol": "a", "label": 1, "clean": [1], "clean_scores": [[1, 0]]}', "largest scores"),
        (b'{"index": 1, "protocol": "a", "label": 1, "clean": [], "clean_scores": []}', "no prediction"),
        (b'{"index": 1, "protocol": "a", "label": 1, "clean": [1], "clean_scores": [], "image": "../x"}', "has image"),
        (b'{"index": 1, "protocol": "a", "label": 1, "clean": [1], "clean_scores": [], "failure": ""}', "both"),
    ],
)
def test_what_is_no_record_says_why(line: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_line(line)


def test_a_batch_without_its_lines_is_as_if_it_never_was(tmp_path: Path) -> None:
    """Images are written first: killed in between, the sample is done again and its image replaced."""
    store = RecordStore(tmp_path)
    batch(store, 5)
    store.file.unlink()
    assert store.read() == []
    new = torch.rand(1, 1, 2, 2)
    (r,) = batch(store, 5, images=new)
    found = store.adversarial(r)
    assert found is not None and (found == new[0].numpy()).all()


def test_half_an_image_is_cleared_away(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    batch(store, 5)
    part = tmp_path / "adversarial" / "000007.99.part"
    part.write_bytes(b"half")
    mend(store)
    assert not part.exists() and len(list(tmp_path.rglob("*.npz"))) == 1


@pytest.mark.parametrize("what", ["image", "line"])
def test_a_full_disk_takes_nothing_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    store = RecordStore(tmp_path)
    before = batch(store, 0)
    real = Path.open

    class Full:
        """A file on a disk with room for ten more bytes."""

        def __init__(self, file) -> None:
            self.file = file

        def write(self, data) -> int:
            if len(data) > 10:
                self.file.write(bytes(data[:10]))
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

    def opened(self: Path, *args, **kwargs):
        file = real(self, *args, **kwargs)
        return Full(file) if self.suffix == (".part" if what == "image" else ".jsonl") and args[:1] != () else file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OSError, match="No space left"):
        batch(store, 1)
    monkeypatch.undo()
    assert store.read() == before
    assert not list(tmp_path.rglob("*.part"))
    mend(store)
    after = batch(store, 1)
    assert store.read() == before + after


def test_a_record_is_what_the_store_says() -> None:
    """The fields that readers of the files rely on."""
    assert list(asdict(record(0))) == [
        "index", "protocol", "label", "clean", "clean_scores", "adversarial", "adversarial_scores", "attack_loss",
        "gradient_size", "attack_correct", "seconds", "seed", "draws", "chunks", "image", "failure",
        "checkpoints", "settings", "certificate", "trials", "left_after",
    ]  # fmt: skip
