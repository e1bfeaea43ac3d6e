"""A finished run, damaged in every way that we could think of; then the report, and the same command again.

Nothing may end in a traceback. Either the run becomes what it was, bit for bit, or the command refuses in one line with
an exit code of the documentation and touches nothing. What was not damaged is not evaluated again.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hetpure.cli import main
from hetpure.runs.files import RESULTS
from tests.evaluation import jobs, kills

ROWS = {
    "uniform": {"purifier": {"name": "uniform", "t": 0.1, "grid_size": 20}},
    "gone/clean": {"purifier": {"name": "none"}, "attack": {"name": "none"}},
}
SETTINGS = ["data.subset=4", "data.batch_size=2", "attack.steps=1", "attack.eot=1", "ensemble.size=1", "chunk_size=4",
            "protocols.resubmissions=2"]  # fmt: skip

LINES, OTHER, IMAGES = "uniform/samples-000.jsonl", "gone/clean/samples-000.jsonl", "uniform/adversarial"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "run"
    assert jobs.evaluate(output, ROWS, *SETTINGS) == 0
    return output


def outcome(run: Path) -> dict[tuple, tuple]:
    records = {}
    for name in ROWS:
        records |= {(name, *key): value for key, value in kills.records_of(run / Path(name).parent).items()}
    return records


# ---- kinds of damage; each is a name and a function of the folder

Damage = Callable[[Path], object]


def edit(name: str, change: Callable[[bytes], bytes]) -> Damage:
    return lambda run: (run / name).write_bytes(change((run / name).read_bytes()))


def write(name: str, content: bytes) -> Damage:
    return edit(name, lambda _: content) if name else lambda run: None


def remove(name: str) -> Damage:
    return lambda run: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()


def swap_kind(name: str) -> Damage:
    """A folder in a file's place, and the other way round."""

    def change(run: Path) -> None:
        was_folder = (run / name).is_dir()
        remove(name)(run) if (run / name).exists() else None
        (run / name).write_bytes(b"x") if was_folder else (run / name / "inside").mkdir(parents=True)

    return change


def in_line(number: int, change: Callable[[bytes], bytes], name: str = LINES) -> Damage:
    def on_line(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        return b"".join([*lines[:number], change(lines[number]), *lines[number + 1 :]])

    return edit(name, on_line)


def in_record(number: int = 1, name: str = LINES, **values: object) -> Damage:
    return in_line(number, lambda line: json.dumps(json.loads(line) | values).encode() + b"\n", name)


def without(key: str) -> Damage:
    return in_line(2, lambda line: json.dumps({k: v for k, v in json.loads(line).items() if k != key}).encode() + b"\n")


def in_images(number: int, **arrays: np.ndarray | None) -> Damage:
    """Members of one file of images are replaced (``first``, ``second``) or, by None, left out."""

    def change(run: Path) -> None:
        file = sorted((run / IMAGES).iterdir())[number]
        with np.load(file) as archive:
            members = dict(archive)
        for name, array in zip(list(members), arrays.values(), strict=False):
            members[name] = array  # pyright: ignore[reportArgumentType]
        np.savez(file, **{name: array for name, array in members.items() if array is not None})  # pyright: ignore

    return change


def in_image_file(change: Callable[[bytes], bytes]) -> Damage:
    return lambda run: (file := sorted((run / IMAGES).iterdir())[0]).write_bytes(change(file.read_bytes()))


def flip(at: float) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        place = int(at * (len(content) - 1))
        return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]

    return change


def swap(a: str, b: str) -> Damage:
    def change(run: Path) -> None:
        contents = (run / a).read_bytes(), (run / b).read_bytes()
        (run / b).write_bytes(contents[0])
        (run / a).write_bytes(contents[1])

    return change


def swap_images(run: Path) -> None:
    a, b = sorted((run / IMAGES).iterdir())[:2]
    swap(f"{IMAGES}/{a.name}", f"{IMAGES}/{b.name}")(run)


def both(*damages: Damage) -> Damage:
    return lambda run: [damage(run) for damage in damages]


def link_to_itself(run: Path) -> None:
    (run / LINES).unlink()
    (run / LINES).symlink_to(run / LINES)


def as_object(run: Path) -> None:
    file = sorted((run / IMAGES).iterdir())[0]
    with np.load(file) as archive:
        np.savez(file, **{name: np.array([{"a": 1}], dtype=object) for name in archive})  # a pickle


IMAGE = np.full((1, 8, 8), 0.5, np.float32)
GARBAGE = bytes(range(256)) * 8

DAMAGES: dict[str, Damage] = {
    # lines
    "lines gone": remove(LINES),
    "lines empty": write(LINES, b""),
    "lines garbage": write(LINES, GARBAGE),
    "lines of zeros": edit(LINES, lambda c: bytes(len(c))),
    "lines zeros in the middle": edit(LINES, lambda c: c[:700] + bytes(200) + c[900:]),
    "lines zeros at the end": edit(LINES, lambda c: c + bytes(4096)),
    "lines as a folder": swap_kind(LINES),
    "lines a link to itself": link_to_itself,
    "lines with CRLF": edit(LINES, lambda c: c.replace(b"\n", b"\r\n")),
    "lines with a BOM": edit(LINES, lambda c: b"\xef\xbb\xbf" + c),
    "lines with empty ones": edit(LINES, lambda c: c.replace(b"\n", b"\n\n")),
    "lines in UTF-16": edit(LINES, lambda c: c.decode().encode("utf-16")),
    "lines of other rows": swap(LINES, OTHER),
    "lines of other settings beside": edit(LINES, lambda c: c + c.replace(b'"settings": "', b'"settings": "f')),
    "a line joined with the next": in_line(1, lambda line: line[:-1]),
    "a line cut in its middle": in_line(2, lambda line: line[:80] + b"\n"),
    "a line gone": in_line(3, lambda line: b""),
    "first line gone": in_line(0, lambda line: b""),
    "a line twice": in_line(2, lambda line: line + line),
    "a line twice, another loss": in_line(2, lambda c: c + re.sub(rb'"attack_loss": [^]]+', b'"attack_loss": [9.0', c)),
    "a line of garbage": in_line(1, lambda line: b"\xff\xfe garbage \x00\n"),
    "a line deep": in_line(1, lambda line: b"[" * 50_000 + b"\n"),
    "a line of a long number": in_line(1, lambda line: line.replace(b'"seed": 0', b'"seed": ' + b"9" * 5000)),
    "a line NaN": in_line(1, lambda line: line.replace(b'"seconds": ', b'"seconds": NaN, "draws": ')),
    "a line Infinity": in_line(1, lambda line: re.sub(rb'"seconds": [^,]+', b'"seconds": Infinity', line)),
    "a bit of a line flipped": in_line(1, flip(0.5)),
    "a bit of a key flipped": in_line(1, flip(0.01)),
    **{f"a line {text}": in_line(2, lambda _, text=text: text.encode() + b"\n") for text in ("[]", "null", "3", "{}")},
    **{f"no {key}": without(key) for key in ("index", "protocol", "label", "clean", "clean_scores")},
    **{
        f"{key} {str(value)[:12]!r}": in_record(**{key: value})
        for key, value in {
            "index": -1, "protocol": 3, "label": 1.5, "clean": "1", "clean_scores": [["a"]], "adversarial": None,
            "adversarial_scores": [[]], "attack_loss": 2, "gradient_size": [-1.0], "attack_correct": [2.0],
            "seconds": -1, "seed": True, "draws": 0, "chunks": [4], "image": "../../x.npz", "failure": 3, "settings": 7,
            "extra": 1, "certificate": {"label": 3}, "trials": -1, "left_after": 99,
        }.items()
    },
    "index outside": in_record(index=499),
    "index of another sample": in_record(index=90),
    "label of another class": in_record(label=3),
    "label of no class": in_record(label=10),
    "prediction changed": in_record(clean=[3]),
    "adversarial prediction changed": in_record(0, adversarial=[3]),
    "scores of fewer classes": in_record(0, clean=[0], clean_scores=[[1.0, 0.0]]),
    "checkpoints of one evaluation of two": in_record(1, checkpoints={"1": [3]}),
    "no scores": in_record(0, clean_scores=[]),
    "one evaluation of two": in_record(1, clean=[1], clean_scores=[[0.0, 1.0] + [0.0] * 8]),
    "seed changed": in_record(seed=5),
    "settings changed": in_record(settings="0" * 16),
    "protocol unknown": in_record(protocol="best of 9"),
    "image of another batch": in_record(image="adversarial/000077.npz"),
    "image missing in the line": in_record(0, image=None),
    # images
    "an image file gone": lambda run: sorted((run / IMAGES).iterdir())[0].unlink(),
    "all image files gone": lambda run: [file.unlink() for file in (run / IMAGES).iterdir()],
    "image folder gone": remove(IMAGES),
    "image folder a file": swap_kind(IMAGES),
    "image file empty": in_image_file(lambda c: b""),
    "image file garbage": in_image_file(lambda c: GARBAGE),
    "image file cut": in_image_file(lambda c: c[: len(c) // 2]),
    **{f"image bit flipped at {at:g}": in_image_file(flip(at)) for at in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)},
    "image files swapped": swap_images,
    "image member gone": in_images(0, first=None),
    "image members gone": in_images(0, first=None, second=None),
    "image float64": in_images(0, first=IMAGE.astype(np.float64)),
    "image of another shape": in_images(1, first=IMAGE[:, :4]),
    "image NaN": in_images(0, second=IMAGE * np.float32("nan")),
    "image outside [0, 1]": in_images(0, second=IMAGE + 1),
    "image a pickle": as_object,
    # other files
    **{f"{name} gone": remove(name) for name in ("config.yaml", "content.yaml", "run.json", RESULTS, "samples.npz")},
    **{
        f"{name} {kind}": write(name, content)
        for name in ("config.yaml", "content.yaml", "run.json", RESULTS, "samples.npz")
        for kind, content in {"empty": b"", "garbage": GARBAGE, "a list": b"[1, 2]"}.items()
    },
    "config.yaml and run.json gone": both(remove("config.yaml"), remove("run.json")),
    "config.yaml a folder": swap_kind("config.yaml"),
    "config.yaml deep": write("config.yaml", b"[" * 5000),
    "config.yaml of another seed": edit("config.yaml", lambda c: c.replace(b"seed: 0", b"seed: 7")),
    "run.json newer": write("run.json", b'{"format_version": 99}'),
    "run.json without settings": write("run.json", b'{"format_version": 3}'),
    "run.json odd settings": write("run.json", b'{"format_version": 3, "settings": {"uniform": [1], "x": 3}}'),
    "results.json odd": write(RESULTS, b'{"format_version": 3, "title": 3, "rows": [3], "notes": 2}'),
    "results.json a folder": swap_kind(RESULTS),
    "report.html a folder": swap_kind("report.html"),
    "results.csv a folder": swap_kind("results.csv"),
    "processes a file": both(remove("processes"), write("", b""), lambda run: (run / "processes").write_text("x")),
    "processes odd": lambda run: (run / "processes" / "process-abc.txt").write_text("x"),
    "lock a folder": lambda run: (run / "uniform" / "samples.lock").mkdir(),
    "lines of a rank that is none": lambda run: (run / "uniform" / "samples-abc.jsonl").write_text("x"),
    "row a file": swap_kind("uniform"),
    "row gone": remove("uniform"),
}  # fmt: skip

REFUSED = {
    "lines of other rows": (2, "were made under other settings"),
    "config.yaml of another seed": (2, "seed was 7, is 0"),
    "run.json newer": (2, "newer than"),
    "processes a file": (3, "processes cannot be written"),
    "row a file": (3, "uniform"),
}
"""What the same command does not mend: its exit code, and what its one line says."""


def test_there_are_many() -> None:
    assert len(DAMAGES) >= 80


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_mended_or_refused(name: str, finished: Path, tmp_path: Path, capfd) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.copy(finished.parent / "job.yaml", tmp_path)
    DAMAGES[name](run)
    assert main(["report", str(run)]) in (0, 2, 3)
    printed, errors = capfd.readouterr()
    assert "Traceback" not in errors + printed and errors.count("\n") <= 3, errors
    before = {path: path.read_bytes() for path in run.rglob("*.npz*") if path.is_file()}
    code, said = REFUSED.get(name, (0, ""))
    assert jobs.main(command(run)) == code
    printed, errors = capfd.readouterr()
    lines = [line for line in re.split("[\r\n]", errors) if line.strip() and "images" not in line]
    assert "Traceback" not in errors + printed and len(lines) <= 3, errors
    assert said in "".join(lines)
    if code == 0:
        whole = outcome(finished)
        assert outcome(run) == whole
        assert jobs.main(command(run)) == 0
        assert ".damaged" not in capfd.readouterr()[1], "what was mended is damaged no more"
    for path, content in before.items():
        kept = [path, *path.parent.glob(f"{path.name}.damaged*")] if path.parent.exists() else []
        assert any(p.is_file() and p.read_bytes() == content for p in kept) or path.name in ("samples.npz",), path


def command(run: Path) -> list[str]:
    settings = [f"output={run}", "threads=1", "pictures=0", "wandb.mode=disabled", *SETTINGS]
    return ["evaluate", "--config", str(run.parent / "job.yaml"), *settings]


@pytest.mark.parametrize("lost", [["config.yaml"], ["config.yaml", "run.json"], ["config.yaml", "content.yaml"]])
def test_records_are_not_shown_under_settings_that_they_were_not_made_under(
    lost: list[str], finished: Path, tmp_path: Path, capfd
) -> None:
    """With the config lost the records themselves say so: another seed or eps is refused, and nothing is changed."""
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.copy(finished.parent / "job.yaml", tmp_path)
    for name in lost:
        (run / name).unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for change in (["seed=5"], ["attack.eps=0.3"], ["rows.uniform.purifier.t=0.2"]):
        assert main([*command(run), *change]) == 2
        errors = capfd.readouterr().err
        assert "were made under other settings, and config.yaml is missing" in errors and errors.count("\n") == 1
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert main(command(run)) == 0 and outcome(run) == outcome(finished)


def test_records_of_an_earlier_version_without_a_config_are_refused(finished: Path, tmp_path: Path, capfd) -> None:
    """They do not say under which settings they were made."""
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.copy(finished.parent / "job.yaml", tmp_path)
    for file in run.rglob("samples-*.jsonl"):
        file.write_text(re.sub(r', "settings": "\w+"', "", file.read_text()))
    (run / "run.json").write_text('{"format_version": 2}')
    assert main(command(run)) == 0, "with its config it goes on"
    capfd.readouterr()
    (run / "config.yaml").unlink()
    assert main(command(run)) == 2
    assert "do not say under which settings they were made, and config.yaml is missing" in capfd.readouterr().err
