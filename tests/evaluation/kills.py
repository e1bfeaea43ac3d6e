"""An evaluation on two processes that is killed again and again: ``python -m tests.evaluation.kills 20 FOLDER``.

Kills (SIGKILL) one process, the other, or both, at random moments; waits for what is left to end; starts the same
command again; finishes on one process; then compares every row and image, and the table, with an undisturbed run's.
20 kills take about ten minutes.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from hetpure.config import PROJECT_ROOT
from hetpure.runs.records import RecordStore

SETTINGS = [
    "--config", "demo.yaml", "data.batch_size=1", "attack.steps=6", "attack.eot=2", "ensemble.size=2",
    "purifier.grid_size=20", "chunk_size=4", "threads=1", "pictures=0", "wandb.mode=disabled",
    "protocols.resubmissions=2", "protocols.votes=3", "rows.undefended.attack={name: none}",
    "rows.uniform.purifier.grid_size=20",
]  # fmt: skip
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]
IMAGES = 9
"""For each kill, and never less than 24: enough that the run is not over before its last kill."""


def start(output: Path, *settings: str) -> subprocess.Popen:
    """The command, in a group of its own."""
    command = [sys.executable, str(PROJECT_ROOT / "evaluate.py"), *SETTINGS, f"output={output}", *settings]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def rows_of(output: Path) -> dict[tuple, tuple]:
    """Everything in every line but the time it took, with the image's bits; no line may stand twice."""
    found: dict[tuple, tuple] = {}
    for folder in sorted(path.parent for path in output.glob("*/samples-000.jsonl")):
        names = Counter[tuple]()
        for file in folder.glob("samples-*.jsonl"):
            for text in file.read_text().splitlines():
                line = json.loads(text)
                names[line["index"], line["protocol"]] += 1
        assert set(names.values()) == {1}, "a sample stands twice"
        store = RecordStore(folder, sorted({protocol for _, protocol in names}))
        for record in store.read():
            image = store.adversarial(record)
            values = {k: v for k, v in vars(record).items() if k not in ("seconds", "image")}
            bits = None if image is None else image.tobytes()
            found[folder.name, record.index, record.protocol] = (repr(values), bits)
    return found


def count(output: Path) -> int:
    """Lines of all files."""
    return sum(file.read_bytes().count(b"\n") for file in output.glob("*/samples-*.jsonl"))


def pid_of(output: Path, rank: int) -> int | None:
    """The process id that a process of the run has written."""
    try:
        return int((output / "processes" / f"process-{rank:03d}.txt").read_text().split("\t")[2])
    except (OSError, ValueError, IndexError):
        return None


def kill_once(output: Path, subset: str, chance: random.Random, say=print) -> bool:
    """One life of the run; False where it ended by itself."""
    process = start(output, subset, *TWO)
    before, target = count(output), chance.choice(("first", "second", "both"))
    wanted, late = before + chance.randint(0, 12), chance.random()
    while process.poll() is None and count(output) < wanted + 1:
        time.sleep(0.01)
    time.sleep(late * 0.5)
    second = pid_of(output, 1)
    if process.poll() is not None:
        return False
    killed = time.monotonic()
    try:
        if target != "second":
            process.send_signal(signal.SIGKILL)
        if target != "first" and second is not None:
            os.kill(second, signal.SIGKILL)
    except ProcessLookupError:
        pass
    printed, _ = process.communicate(timeout=60)  # the pipe closes when the last process is gone
    took = time.monotonic() - killed
    reason = re.search(r"error: (process .*?);", printed)  # perhaps behind a progress bar that was cut off
    say(f"killed {target:6} with {count(output):3} lines; all gone after {took:4.1f} s; {reason[1] if reason else ''}")
    assert took < 60.0
    assert target == "both" or reason, printed
    return True


def survive(output: Path, kills: int, seed: int, say=print) -> None:
    """Kills a run on two processes so many times, finishes it on one and compares it with an undisturbed one."""
    chance, done, subset = random.Random(seed), 0, f"data.subset={max(24, IMAGES * kills)}"
    while done < kills and kill_once(output, subset, chance, say):
        done += 1
    say(f"{done} kills, {count(output)} lines; the rest on one process")
    finish = start(output, subset)
    printed, _ = finish.communicate(timeout=3600)
    assert finish.returncode == 0, printed
    undisturbed = output.with_name(output.name + "-undisturbed")
    printed, _ = (process := start(undisturbed, subset)).communicate(timeout=3600)
    assert process.returncode == 0, printed
    assert rows_of(output) == rows_of(undisturbed)
    tables = [json.loads((folder / "results.json").read_text())["rows"] for folder in (output, undisturbed)]
    assert [{**row, "seconds": 0} for row in tables[0]] == [{**row, "seconds": 0} for row in tables[1]]
    assert done == kills, f"the run was over after {done} kills: give it more to do"
    say(f"{len(rows_of(output))} rows alike, bit for bit; the same table")


if __name__ == "__main__":
    survive(Path(sys.argv[2]) / "killed", int(sys.argv[1]), seed=int(sys.argv[3]) if len(sys.argv) > 3 else 0)
