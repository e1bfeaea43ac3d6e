"""``hetpure verify`` as a command: what it refuses, what it cannot check, where it writes."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from hetpure.cli import main
from hetpure.cli.verify import tell
from hetpure.errors import ConfigError
from hetpure.models.classifiers import build_network
from hetpure.runs.results import Verdict
from hetpure.runs.verification import read_verification
from hetpure.verification.verify import verify
from tests.evaluation.test_evaluate import THEIR_CODE
from tests.runs.schemas import validator

NETWORK = f'{THEIR_CODE}\nopen(__file__ + ".ran", "a").close()\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without an attack, of a network from a Python file."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "net.py").write_text(NETWORK)
    save_file(build_network(f"{folder}/net.py:TheirNet").state_dict(), folder / "weights.safetensors")
    config = {
        "data": {"name": "digits", "subset": 2},
        "classifier": {"name": f"{folder}/net.py:TheirNet", "weights": f"{folder}/weights.safetensors"},
        "purifier": {"name": "none"},
        "attack": {"name": "none"},
        "threads": 1,
        "pictures": 0,
        "trainer": {"accelerator": "cpu"},
        "wandb": {"mode": "disabled"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(config))
    assert main(["evaluate", "--config", str(folder / "job.yaml"), f"output={folder}/run", "seed=0"]) == 0
    return folder


@pytest.fixture
def theirs(made: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    (folder / "net.py.ran").unlink(missing_ok=True)
    return folder


def test_code_that_the_folder_names_is_not_run(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = theirs / "run" / "config.yaml"
    named = yaml.safe_load(config.read_text())["classifier"]["name"]
    config.write_text(config.read_text().replace(named, f"{theirs}/net.py:TheirNet"))
    assert main(["verify", str(theirs / "run")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "which is code that the run folder names" in errors
    assert not (theirs / "net.py.ran").exists() and not (theirs / "run" / "verification.json").exists()


def test_code_that_the_user_names_runs(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From wherever the user has it, if it is the code that was run."""
    command = ["verify", str(theirs / "run"), f"classifier.name={theirs}/net.py:TheirNet"]
    assert main(command) == 0
    assert (theirs / "net.py.ran").exists()
    (theirs / "net.py").write_text(f"{NETWORK}# another\n")
    capsys.readouterr()
    assert main(command) == 4
    assert "content: FAILED. rows.none.code." in capsys.readouterr().out


def test_code_without_a_hash_is_said(theirs: Path) -> None:
    content = yaml.safe_load((theirs / "run" / "content.yaml").read_text())
    del content["rows"]["none"]["code"]
    (theirs / "run" / "content.yaml").write_text(yaml.safe_dump(content))
    found = verify(theirs / "run", [f"classifier.name={theirs}/net.py:TheirNet"])
    assert found.passed is None
    assert [v.details for v in found.verdicts if v.passed is None] == [
        "hashes of images and of 1 row(s) as recorded; content.yaml has no hash of the code"
    ]


def test_a_run_of_objects_in_python_is_checked_without_its_networks(theirs: Path) -> None:
    config = yaml.safe_load((theirs / "run" / "config.yaml").read_text())
    config["classifier"] |= {"name": "TheirNet", "source": "given to hetpure.evaluate, content 0123"}
    (theirs / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    found = verify(theirs / "run")
    assert found.passed is None and "only a config's networks can be built again" in found.run[-1].details
    assert [v.check for v in found.rows["none"]] == ["records", "samples", "labels"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classifier": {"weights": "no/such"}}, "no/such: no such file"),
        ({"data": {"name": "folder", "root": "no"}}, ""),
    ],
)
def test_what_is_not_here_is_not_checked(theirs: Path, change: dict, says: str) -> None:
    config = yaml.safe_load((theirs / "run" / "config.yaml").read_text())
    for section, values in change.items():
        config[section] |= values
    config["classifier"]["name"] = "cifar_resnet8"
    (theirs / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    found = verify(theirs / "run")
    assert found.passed is None
    assert says in found.run[-1].details and found.run[-1].passed is None


def test_wrong_places_on_the_command_line_are_bad_input(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"classifier.name={theirs}/net.py:TheirNet"
    assert main(["verify", str(theirs / "run"), code, "classifier.weights=no/such"]) == 2
    assert "error: classifier.weights: no/such: no such file" in capsys.readouterr().err
    (theirs / "file").touch()
    for arguments in (["--samples", "-1"], ["--output", str(theirs / "file")], ["attack.steps=1"], ["nonsense"]):
        assert main(["verify", str(theirs / "run"), *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_smallest_folder_of_another_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "config.yaml").write_text("purifier: {name: mine}\n")
    (tmp_path / "run.json").write_text('{"format_version": 2}')
    line = {"index": 3, "protocol": "one-shot", "label": 1, "clean": [1], "clean_scores": [[0, 1]]}
    (tmp_path / "mine" / "samples-000.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["verify", str(tmp_path), "--output", str(tmp_path / "verdicts")]) == 4
    out = capsys.readouterr().out
    assert "mine: records: ok" in out and "mine: samples: FAILED. 499 of 500 missing" in out
    assert "content: not checked" in out
    written = json.loads((tmp_path / "verdicts" / "verification.json").read_text())
    validator("verification").validate(written)
    assert written["outcome"] == "failed" and not (tmp_path / "verification.json").exists()


def test_verdicts_that_cannot_be_written_are_still_shown(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (theirs / "run" / "verification.json").mkdir()
    assert main(["verify", str(theirs / "run"), f"classifier.name={theirs}/net.py:TheirNet"]) == 0
    shown = capsys.readouterr()
    assert "verification.json cannot be written" in shown.err and shown.out.splitlines()[-1].startswith("verified: ")


def test_what_a_folder_says_cannot_write_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    tell("row\x1b[2J", Verdict("records", False, "one\ntwo\x07"))
    assert capsys.readouterr().out == "row?[2J: records: FAILED. one?two?\n"


def test_no_folder() -> None:
    assert main(["verify", "no/such/folder"]) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [("{}", "lacks 'format_version'"), ('{"format_version": 9}', "format version 9"), ("[]", "not a mapping")],
)
def test_a_damaged_verification_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "verification.json").write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_verification(tmp_path)
