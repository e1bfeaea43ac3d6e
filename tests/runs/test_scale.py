"""Work and memory grow with the records and not faster: operations and bytes are counted, not seconds."""

import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetpure.evaluation.sample_queue import SampleQueue
from hetpure.reports.page.embed import Album
from hetpure.reports.page.samples import browser_data
from hetpure.runs import mend as menders
from hetpure.runs import store as stores
from hetpure.runs.claim import claim
from hetpure.runs.images import Samples, save_samples
from hetpure.runs.read import read_run
from hetpure.runs.records import Record
from hetpure.runs.store import RecordStore
from hetpure.verification.lines import Problems
from tests.evaluation.test_sample_queue import trainer

COUNT, BATCH, CLASSES, ITERATIONS = 40, 10, 300, 40
PROTOCOLS, HASH = ["one-shot", "best of 2"], "0123456789abcdef"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run: records under two protocols, in batches, by two processes in turn."""
    folder = tmp_path_factory.mktemp("scale") / "run"
    config = {"purifier": {"name": "row"}, "protocols": {"resubmissions": 2, "votes": 0}}
    claim(folder, config, made_under={"row": HASH})
    save_samples(Samples(range(COUNT), [str(k) for k in range(CLASSES)], {}), folder / "samples.npz")
    curves = np.random.default_rng(0).random((3, ITERATIONS)).tolist()
    scores = [k / 7 for k in range(CLASSES)]
    for start in range(0, COUNT, BATCH):
        store = RecordStore(folder / "row", PROTOCOLS, rank=start // BATCH % 2)
        images = {index: np.full((1, 1, 1), 0.5, np.float32) for index in range(start, start + BATCH)}
        name, right = store.image_name(images), [CLASSES - 1]
        records = [
            Record(index, protocol, 0, right, [scores], right, [scores], *curves, image=name, settings=HASH)
            for index in images
            for protocol in PROTOCOLS
        ]
        store.append(records, images)
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often lines are parsed, files of images opened, and all lines gone through."""
    counter = Counter[str]()

    def count(owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counter[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(stores, "parse_line")
    count(menders, "load_images")
    count(RecordStore, "_samples")
    return counter


def test_every_line_is_parsed_once(run: Path, calls: Counter[str]) -> None:
    store = RecordStore(run / "row", PROTOCOLS)
    queue = SampleQueue(store, range(COUNT), trainer(1, 8))
    for _ in range(3):
        assert queue.left() == 0 and len(store.outcomes()) == 2 * COUNT and len(store.done()) == COUNT
        assert store.for_process(3).done() == store.done()
    assert calls["parse_line"] == 2 * COUNT


def test_a_run_is_claimed_without_reading_its_records(run: Path, calls: Counter[str]) -> None:
    config = {"purifier": {"name": "row"}, "protocols": {"resubmissions": 2, "votes": 0}}
    claim(run, config, made_under={"row": HASH})
    assert 1 <= calls["parse_line"] <= 2


def test_a_page_goes_through_the_lines_a_fixed_number_of_times(run: Path, calls: Counter[str]) -> None:
    data = browser_data(read_run(run), Album(0))
    assert all("cleanScores" in sample for sample in data["methods"][0]["samples"])
    assert calls["parse_line"] == 3 * COUNT  # all, and the first protocol's again for their scores
    assert calls["_samples"] <= 4


def test_a_page_has_what_is_left_where_records_vanish_while_it_is_made(run: Path, tmp_path: Path) -> None:
    """Another process may mend a file between the reading of its records and that of their scores."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    opened = read_run(copy)
    file = copy / "row" / "samples-001.jsonl"
    kept = [line for line in file.read_text().splitlines(keepends=True) if '"index": 10,' not in line]
    file.with_suffix(".new").write_text("".join(kept))
    file.with_suffix(".new").replace(file)
    samples = {sample["index"]: sample for sample in browser_data(opened, Album(0))["methods"][0]["samples"]}
    assert "cleanScores" not in samples.pop(10)
    assert len(samples) == COUNT - 1 and all("cleanScores" in sample for sample in samples.values())


def test_mending_makes_no_set_for_each_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    differences = [0]

    class Counted(set[int]):
        def __sub__(self, other: Set[Any]) -> set[int]:
            differences[0] += 1
            return set(self) - other

    done = RecordStore.done
    monkeypatch.setattr(RecordStore, "done", lambda self: Counted(done(self)))
    assert menders.mend(RecordStore(run / "row", PROTOCOLS)) == []
    assert differences[0] == 1


def test_images_are_opened_by_file_when_a_run_is_mended(run: Path, calls: Counter[str]) -> None:
    menders.mend(RecordStore(run / "row", PROTOCOLS))
    assert calls["load_images"] == COUNT // BATCH


def kept_bytes(read: Callable[[], Any]) -> float:
    """Bytes that are kept, a record."""
    tracemalloc.start()
    try:
        kept, (size, _) = read(), tracemalloc.get_traced_memory()
        return size / len(kept)
    finally:
        tracemalloc.stop()


def test_outcomes_leave_scores_in_the_files_and_protocols_share_curves(run: Path) -> None:
    """Scores of 300 classes are 19 kB a record; its curves 4 kB, half of them under two protocols."""
    assert kept_bytes(RecordStore(run / "row", PROTOCOLS).outcomes) < 5_000
    assert kept_bytes(RecordStore(run / "row", PROTOCOLS).read) > 19_000


def test_problems_are_not_compared_with_each_other() -> None:
    compared = [0]

    class Text(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            compared[0] += 1
            return str(self) == other

        __hash__ = str.__hash__

    problems = Problems()
    for k in (*range(500), *range(500)):
        problems.add(Text(f"sample {k}: other scores"))
    assert compared[0] < 2000
    assert problems.verdict("records", "").details.endswith("sample 2: other scores; and 497 more")
