"""Reports need no torch: not to be imported, and not to be made."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

from tests.runs.test_format import VERSION_1

HEAVY = ("torch", "lightning", "diffusers", "timm", "torchvision")
SEEN = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_reports_imports_no_torch() -> None:
    assert run(f"import hetpure.reports, hetpure.reports.dashboard, hetpure.reports.aggregate; {SEEN}").strip() == "[]"


def test_a_whole_report_is_made_without_torch(tmp_path: Path) -> None:
    folder = shutil.copytree(VERSION_1, tmp_path / "run")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    printed = run(f"from hetpure.cli import main; main(['report', {str(folder)!r}]); {SEEN}")
    assert printed.strip().endswith("[]") and "heterogeneous" in printed and (folder / "report.html").is_file()
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert seconds < 2.0, "of processor time; the clock also counts what else the machine does"
