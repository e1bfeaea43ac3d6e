"""An evaluation on two processes that is killed again and again: ``python -m tests.evaluation.kills 20 FOLDER``.

Kills (SIGKILL) one process, the other, or both, at random moments. Without the first, which started it, the second
ends; without the second, the first goes on, and is killed a little later. The same command starts again each time, and
one process finishes. Then every record and image, and the table, must be an undisturbed run's. 20 kills take about ten
minutes.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from hetpure.cli import main
from hetpure.config import PROJECT_ROOT
from hetpure.runs.store import RecordStore
from tests.evaluation import slow_evaluate

SETTINGS = [
    "--config", "digits.yaml", "data.batch_size=1", "attack.steps=3", "attack.eot=2", "ensemble.size=2",
    "purifier.grid_size=20", "chunk_size=4", "threads=1", "pictures=0", "wandb.mode=disabled",
    "protocols.resubmissions=2", "protocols.votes=3", "trainer.accelerator=cpu", "rows.undefended.attack={name: none}",
    "rows.uniform.purifier.grid_size=20",
]  # fmt: skip
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]
IMAGES = 12
"""For each kill, and never less than 30: enough that the run, in slow processes, is not over before its last kill."""


def start(output: Path, *settings: str) -> subprocess.Popen[str]:
    """The command with slow network calls, in a group of its own."""
    command = [sys.executable, slow_evaluate.__file__, *SETTINGS, f"output={output}", *settings]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def records_of(output: Path) -> dict[tuple, tuple]:
    """Everything in every record but the time it took, with the image's bits; no record may stand twice."""
    records: dict[tuple, tuple] = {}
    for folder in sorted({file.parent for file in output.glob("*/samples-*.jsonl")}):
        names = Counter[tuple]()
        for file in RecordStore(folder).files:
            for text in file.read_text().splitlines():
                line = json.loads(text)
                names[line["index"], line["protocol"]] += 1
        assert set(names.values()) == {1}, "a sample stands twice"
        store = RecordStore(folder, sorted({protocol for _, protocol in names}))
        for record in store.read():
            image = store.adversarial(record)
            values = {k: v for k, v in vars(record).items() if k not in ("seconds", "image")}
            bits = None if image is None else image.tobytes()
            records[folder.name, record.index, record.protocol] = (repr(values), bits)
    return records


def count(output: Path) -> int:
    """Lines of all files."""
    return sum(file.read_bytes().count(b"\n") for file in output.glob("*/samples-*.jsonl"))


def wait(process: subprocess.Popen[str], output: Path, lines: int) -> bool:
    """Waits until so many more lines are there; False where the process ends before."""
    goal = count(output) + lines
    while process.poll() is None and count(output) < goal:
        time.sleep(0.01)
    return process.poll() is None


def second_of(output: Path, first: int) -> int | None:
    """The id of the process that the first one has started, once it has written it."""
    try:
        pid = int((output / "processes" / "process-001.txt").read_text().split()[1])
        return pid if f"\nPPid:\t{first}\n" in Path(f"/proc/{pid}/status").read_text() else None
    except (OSError, ValueError, IndexError):
        return None


def kill_once(output: Path, subset: str, chance: random.Random, say=print) -> bool:
    """One life of the run; False where it ended by itself."""
    process, target = start(output, subset, *TWO), chance.choice(("first", "second", "both"))
    if not wait(process, output, chance.randint(1, 13)):
        return False
    while target != "first" and process.poll() is None and second_of(output, process.pid) is None:
        time.sleep(0.01)
    time.sleep(chance.random() * 0.5)
    second = second_of(output, process.pid)
    if process.poll() is not None:
        return False
    if target == "second" and second is not None:
        os.kill(second, signal.SIGKILL)
        time.sleep(3.0)
        if not wait(process, output, 6):
            return False
    process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    if target == "both" and second is not None:
        os.kill(second, signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)  # the pipe closes when the last process is gone
    took = time.monotonic() - killed
    say(f"killed {target:6} with {count(output):3} lines; all gone after {took:4.1f} s")
    assert took < 60.0
    assert ("ended with code -9" in printed) is (target == "second"), printed
    return True


def survive(output: Path, kills: int, seed: int, say=print) -> None:
    """Kills a run on two processes so many times, finishes it on one and compares it with an undisturbed one."""
    chance, done, subset = random.Random(seed), 0, f"data.subset={max(30, IMAGES * kills)}"
    while done < kills and kill_once(output, subset, chance, say):
        done += 1
    say(f"{done} kills, {count(output)} lines; the rest on one process")
    undisturbed = output.with_name(output.name + "-undisturbed")
    for folder in (output, undisturbed):
        assert main(["evaluate", *SETTINGS, f"output={folder}", subset]) == 0
    assert records_of(output) == records_of(undisturbed)
    tables = [json.loads((folder / "results.json").read_text())["rows"] for folder in (output, undisturbed)]
    assert [{**row, "seconds": 0} for row in tables[0]] == [{**row, "seconds": 0} for row in tables[1]]
    assert done == kills, f"the run was over after {done} kills: give it more to do"
    say(f"{len(records_of(output))} records alike, bit for bit; the same table")


if __name__ == "__main__":
    survive(Path(sys.argv[2]) / "killed", int(sys.argv[1]), seed=int(sys.argv[3]) if len(sys.argv) > 3 else 0)
