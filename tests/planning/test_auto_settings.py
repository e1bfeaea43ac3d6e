"""``chunk_size: auto`` and ``attack.recompute: auto``: chosen once, by memory, and kept with the run."""

from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import hetpure.planning.auto_settings
from hetpure.config import merge, read_config, to_yaml
from hetpure.data import ImageDataModule
from hetpure.errors import RunError
from hetpure.evaluation.build import Loaded
from hetpure.evaluation.config import complete
from hetpure.evaluation.run import evaluation_trainer
from hetpure.models.denoisers import Recomputed
from hetpure.planning.auto_settings import choose_auto_settings, free_bytes
from hetpure.planning.counting import Piece
from hetpure.planning.measure import Meter
from hetpure.runs.store import RecordStore
from tests.evaluation.jobs import evaluate

ROWS: dict[str, Any] = {
    "undefended": {"purifier": {"name": "none"}},
    "uniform": {"purifier": {"name": "uniform", "t": 0.1, "grid_size": 50}},
}
SMALL = ("data.subset=4", "attack.steps=1", "attack.eot=8", "attack.recompute=auto", "chunk_size=auto")


@pytest.fixture(autouse=True)
def _even(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of every chunk takes as long as any other, but for a fixed cost of a call's."""
    monkeypatch.setattr(
        "hetpure.planning.measure.Meter.estimated_time", lambda _self, piece: 1e-3 * (1e-3 + piece.rows)
    )


def saved(output: Path) -> dict[str, Any]:
    return yaml.safe_load((output / "config.yaml").read_text())


def memory(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(hetpure.planning.auto_settings, "free_bytes", lambda _device: free)


def test_a_choice_is_made_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory(monkeypatch, 1e12)
    output = tmp_path / "run"
    assert evaluate(output, ROWS, *SMALL) == 0
    config = saved(output)
    # A call's fixed cost is nothing here: the largest chunk that leaves next to no padding, of 4 images and 4 draws.
    assert config["chunk_size"] == 4
    assert [row["attack"]["recompute"] for row in config["rows"].values()] == [False, False]
    assert "chunks of 4 rows" in capsys.readouterr().out
    assert {size for r in RecordStore(output / "uniform").read() for size in r.chunks.values()} == {4}
    # The same command on a machine with no memory to speak of: the run's own numbers stay, and nothing runs again.
    memory(monkeypatch, 0.0)
    assert evaluate(output, ROWS, *SMALL) == 0
    assert saved(output) == config
    out = capsys.readouterr()
    assert out.out.count("all 4 images are done already") == 2 and "chunks of" not in out.out.split("done already")[0]
    # A chunk size of one's own is another run.
    assert evaluate(output, ROWS, *SMALL[:-1], "chunk_size=2") == 2
    assert "chunk_size was 4, is 2" in capsys.readouterr().err


def chosen(monkeypatch: pytest.MonkeyPatch, output: Path, free: float, **changes: Any) -> Any:
    memory(monkeypatch, free)
    raw = read_config("digits.yaml", [*SMALL, f"output={output}", "threads=1"]) | {"rows": ROWS}
    config = complete(merge(raw, changes))
    data = ImageDataModule("digits", subset=4).prepare()
    return choose_auto_settings(config, data, evaluation_trainer({"accelerator": "cpu"}), Loaded())


def test_more_rows_where_they_help_and_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Calls that cost the same whatever their rows: as many rows as fit and can be filled."""
    monkeypatch.setattr("hetpure.planning.measure.Meter.estimated_time", lambda _self, _piece: 1e-3)
    roomy = chosen(monkeypatch, tmp_path / "a", 1e12)
    assert roomy.chunk_size == 32  # 4 images, 8 draws
    assert not roomy.rows["uniform"].attack["recompute"]
    tight = chosen(monkeypatch, tmp_path / "b", 16e6)
    assert 1 <= tight.chunk_size < 32 and tight.rows["uniform"].attack["recompute"]
    assert not tight.rows["undefended"].attack["recompute"]
    fixed = chosen(monkeypatch, tmp_path / "c", 16e6, chunk_size=8)
    assert fixed.chunk_size == 8
    assert chosen(monkeypatch, tmp_path / "d", 0.0).chunk_size == 1


def test_as_many_calls_are_recomputed_as_memory_demands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of five calls, at t = 100, 80, .. 20, one byte each; a resumed run keeps the choice where memory shrank."""

    def needed(_meter: Meter, pieces: Collection[Piece]) -> Callable[[int], float]:
        modules = [module for piece in pieces for module in piece.process.purifier.modules()]
        levels = [module.from_t for module in modules if isinstance(module, Recomputed)]
        return lambda _rows: sum(t / 1000 < max(levels, default=0.0) for t in range(20, 120, 20))

    def choice(name: str, limit: float) -> Any:
        config = chosen(monkeypatch, tmp_path / name, limit / 0.4, chunk_size=4)
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.yaml").write_text(to_yaml(config))
        return config.rows["uniform"].attack["recompute"]

    monkeypatch.setattr("hetpure.planning.measure.Meter.memory", needed)
    limits = (0.5, 1.5, 2.5, 4.5, 5.5)
    assert [choice(f"run{limit}", limit) for limit in limits] == [True, 0.04, 0.06, 0.1, False]
    assert choice("run2.5", 1.5) == 0.06


def test_a_slow_machine_tries_two_sizes_and_takes_one_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried: list[int] = []
    monkeypatch.setattr(hetpure.planning.auto_settings, "SECONDS", 0.0)

    def slow(_meter: Meter, piece: Piece) -> float:
        tried.append(piece.rows)
        return 100.0 * (1.0 + piece.rows)

    monkeypatch.setattr("hetpure.planning.measure.Meter.estimated_time", slow)
    assert chosen(monkeypatch, tmp_path / "a", 1e12).chunk_size == 2
    assert set(tried) == {1, 2}


def test_padding_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """24 rows of a gradient, 12 of a prediction: chunks of 8 pad 4 rows of a prediction, larger ones more."""
    monkeypatch.setattr("hetpure.planning.measure.Meter.estimated_time", lambda _self, piece: 1e-3 * (4.0 + piece.rows))
    config = chosen(monkeypatch, tmp_path / "a", 1e12, attack={"eot": 6}, ensemble={"size": 3})
    assert config.chunk_size == 8


def test_other_processes_wait_for_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw = {
        "output": str(tmp_path), "chunk_size": "auto", "purifier": {"name": "none"},
        "classifier": {"name": "cifar_resnet8"}, "attack": {"recompute": "auto"},
    }  # fmt: skip
    trainer: Any = SimpleNamespace(is_global_zero=False)
    data: Any = None
    monkeypatch.setattr(hetpure.planning.auto_settings, "WAIT", 0.2)
    with pytest.raises(RunError, match="no choice by the first process"):
        choose_auto_settings(complete(raw), data, trainer, Loaded())
    first = {"chunk_size": 16, "attack": {"recompute": False}, "rows": {}, "purifier": {"name": "none"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(first))
    config = choose_auto_settings(complete(raw), data, trainer, Loaded())
    assert config.chunk_size == 16 and config.rows["none"].attack["recompute"] is False


def test_free_memory_is_some_of_the_machines() -> None:
    assert 2**24 < free_bytes(torch.device("cpu")) < 2**45


@pytest.mark.parametrize(
    ("most", "now", "stat", "cached"),
    [
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ],
)
def test_page_cache_in_a_container_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: str, now: str, stat: str, cached: str
) -> None:
    monkeypatch.setattr(hetpure.planning.auto_settings, "CGROUP", tmp_path)
    (tmp_path / most).parent.mkdir(exist_ok=True)
    (tmp_path / most).write_text("10000\n")
    (tmp_path / now).write_text("9000\n")
    assert free_bytes(torch.device("cpu")) == 1000
    (tmp_path / stat).write_text(f"anon 2000\n{cached} 6500\nactive_file 500\n")
    assert free_bytes(torch.device("cpu")) == 7500
