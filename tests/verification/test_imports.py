"""What checks a folder alone must not need torch."""

import subprocess
import sys


def test_checks_of_the_folder_alone_import_no_torch() -> None:
    modules = ", ".join(f"hetpure.verification.{name}" for name in ("lines", "table", "verify"))
    code = f"import sys, {modules}; print([name for name in ('torch', 'lightning') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
