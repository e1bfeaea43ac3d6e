"""Bad configs and arguments: each is refused in a line, before anything is written, and nothing in it is executed.

Every key of the three schemas meets bad values of its kind and beyond its range; then come bad files and bad arguments
of all commands. They run in this process, up to the point where they would begin to write.
"""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import pytest

from hetpure.attacks.pgd import PGD
from hetpure.attacks.registry import COMMON
from hetpure.cli import main
from hetpure.config.schema import signature_schema
from hetpure.errors import BAD_INPUT, STOPPED
from hetpure.evaluation.config import EvaluateConfig
from hetpure.models.classifiers import build_classifier
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.training.config import TrainClassifierConfig, TrainDiffusionConfig

COMMANDS = {
    "evaluate": ("--config", "digits.yaml", "rows=null", "data.subset=2", "wandb.mode=disabled"),
    "train-classifier": ("--config", "digits_classifier.yaml", "wandb.mode=disabled"),
    "train-diffusion": ("--config", "digits_denoiser.yaml", "wandb.mode=disabled"),
}
"""Commands with a schema, and arguments that are right."""

SCHEMAS: dict[str, dict[str, type]] = {
    "evaluate": {
        "": EvaluateConfig,
        "purifier.": signature_schema(HeterogeneousPurifier, ("classifier", "denoiser"), name=(str, "")),
        "attack.": signature_schema(PGD, (), **COMMON),
        "classifier.": signature_schema(build_classifier, ()),
    },
    "train-classifier": {"": TrainClassifierConfig},
    "train-diffusion": {"": TrainDiffusionConfig},
}
"""The keys of each command, by what stands before them."""

EXECUTE = '!!python/object/apply:os.system ["touch EXECUTED"]'
BOMB = ", ".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['x'])}]" for i in range(12))
LONG, LONGER, BILLIONS = "y" * 300, "y" * 5000, "1000000000000"

NEVER = (
    "1" + "0" * 23, "9" * 5000, "0x" + "9" * 5000, "!!int abc", "!!bool abc", "!!float abc", "!!timestamp abc",
    "!!binary aGk=", EXECUTE, "${nowhere}", "[" * 500, "[1", '"a\\0b"', "a\udcffb", LONGER, f"{{{BOMB}}}",
)  # fmt: skip
"""Values that no key takes; each key gets the next."""

NO_NUMBER = ("{zz: 1}", "[[1]]", ".nan", ".inf", "1e999", "many", "''", "8/0")
WRONG: dict[Any, tuple[str, ...]] = {
    int: (*NO_NUMBER, "1.5"),
    float: (*NO_NUMBER, "-.inf", "'inf'"),
    bool: (*NO_NUMBER, "1.5"),
    Literal: (*NO_NUMBER, "1.5"),
    str: ("{zz: 1}", "[[1]]"),
    list: ("{zz: 1}", "many", "[.inf]", "['', {}]"),
    dict: ("[[1]]", ".nan", "many", "''", "1.5"),
}
"""Values that a kind of key does not take. Each key gets two in turn; one of two kinds, what both refuse."""

SHARED: dict[str, tuple[str, ...]] = {
    "seed": ("-1",), "output": ("''", "null", "~nosuchuser/x", "x/" + LONG, '"a\\nb"', '"a\\eb"'),
    "data.subset": ("0", "-1", "129999"), "data.subset_seed": ("-3", str(2**32)), "data.subset_skip": ("-1", "5000"),
    "data.batch_size": ("0", BILLIONS), "data.workers": ("-1", BILLIONS), "data.test_split": ("x",),
    "data.image_size": ("0", BILLIONS), "data.crop_padding": ("-1", BILLIONS),
    "data.name": ("magic", "''", "folder", "torch/magic", "hfds/"), "wandb.mode": ("online",),
    "trainer.accelerator": ("tpu", "mps", "nosuch", "3", "[1]", ".nan"), "trainer.callbacks": ("[1]",),
    "trainer.devices": ("0", "-5", "100000", BILLIONS, "[0, 0]", "[]", "[-1]", "many", "1.5", "{a: 1}", ".inf", "true"),
    "trainer.num_nodes": ("0", "-1", "many", BILLIONS, ".inf"), "trainer.max_time": ("many", "3.5", "[1]"),
    "trainer.strategy": ("ddp_nosuch", "deepspeed", "3", "[1]"), "trainer.max_steps": ("many", "-7", ".inf"),
    "trainer.log_every_n_steps": ("many", ".nan"), "trainer.profiler": ("nosuch", "3"), "trainer.zz": ("1",),
    "trainer.benchmark": ("many",), "trainer.deterministic": ("many",), "trainer.plugins": ("nosuch", "3", "[3]"),
    "trainer.gradient_clip_val": (".inf", "many"), "trainer.precision": ("nosuch",), "trainer.model_registry": ("3",),
    "trainer.default_root_dir": ("[1]",), "trainer.sync_batchnorm": ("many",), "trainer.detect_anomaly": ("many",),
}  # fmt: skip
"""Values beyond the ranges of keys that all commands have."""

RANGES: dict[str, dict[str, tuple[str, ...]]] = {
    "evaluate": {
        "threads": ("0", "1025"), "chunk_size": ("0", "-5", BILLIONS), "precision": ("tf32",),
        "pictures": ("-1", BILLIONS), "hang_minutes": ("-1", "1e300"),
        "classifier.name": ("no_such", "''", "a/b.py:C", "no_such_package:C"), "classifier.mean": ("[0.1, 0.2]",),
        "classifier.std": ("[0.0]", "[-1.0]", "[0.1, 0.2]"), "classifier.crop_pct": ("0", "1.5"),
        "classifier.image_size": ("0", BILLIONS), "classifier.arguments": ("{num_classes: many}", "{zz: 1}"),
        "classifier.weights": ("/no/such", "/", "''", "~nosuchuser/x", LONG, EXECUTE),
        "denoiser.path": ("/no/such", "null", "~nosuchuser/x", LONG), "denoiser.format": ("magic", "''", "edm"),
        "purifier.name": ("magic", "''", "x.py:Y", ":", "no_such_package:P"), "purifier.preset": ("magic",),
        "purifier.t_large": ("1.5", "0", "-1"), "purifier.t_small": ("-0.2", "0.3"), "purifier.eta": ("-1", "2"),
        "purifier.grid_size": ("0", "7", BILLIONS), "purifier.U": ("0", BILLIONS), "purifier.p": ("0",),
        "purifier.tau": ("7",), "purifier.blocks": ("[no_such]",), "purifier.steps": ("3",),
        "attack.name": ("magic", "''", "x.py:Y", "foolbox:no_such"), "attack.eps": ("-1",), "attack.steps": ("0",),
        "attack.step_size": ("0", "-1"), "attack.eot": ("0",), "attack.evaluations": ("0",), "attack.restarts": ("0",),
        "attack.gradient": ("magic", "{name: mask_aware, temperature: .inf}", "{name: 3}", "surrogate"),
        "attack.loss": ("magic", "''"), "attack.process": ("{t_small: .inf}", "{zz: 1}"),
        "ensemble.size": ("0", BILLIONS), "ensemble.mode": ("''",), "protocols.resubmissions": ("0", BILLIONS),
        "protocols.votes": ("-1", BILLIONS), "honesty.images": ("-2",), "honesty.factor": ("1", BILLIONS),
        "certify": ("{}",), "certify.n0": ("0", BILLIONS), "certify.n": ("0", BILLIONS), "certify.alpha": ("0", "1"),
        "certify.radii": ("[]", "[0]", "[0.1, 0.1]"),
        "table": ("{title: x}", "{columns: {a: 3}}", "{printed: table9, columns: {a: {}}}"),
        "grid": ("{purifier.tau: 3}", "{grid: [1]}", "{purifier.tau: []}", "{seed: [1]}", "{attack.eps: [1, 1]}",
                 f"{{purifier.tau: {[*range(200)]}, attack.eps: {[*range(200)]}}}"),
        "rows": ("[1]", "{a: 3}", "{a: {seed: 1}}", "{a: {attack: {zz: 1}}}", "{report.html: {}}",
                 "{a/results.json: {}}", "{samples-000.jsonl: {}}", '{"a\\nb": {}}', '{"\\e[31m": {}}',
                 f"{{{LONG}: {{}}}}", "{a//b: {}}", "{../a: {}}", "{'': {}}", "{wandb: {}}"),
        "trainer.limit_test_batches": ("1",), "trainer.inference_mode": ("true",),
    },
    "train-classifier": {
        "label_smoothing": ("-0.1", "1"), "classifier.name": ("no_such", "x.py:Y"), "classifier.std": ("[0.0]",),
        "classifier.arguments": ("{num_classes: many}", "{zz: 1}"), "classifier.image_size": ("0",),
        "trainer.max_steps": ("0", "null"), "optimizer.name": ("lion",), "optimizer.schedule": ("step",),
        "optimizer.lr": ("-1",), "optimizer.weight_decay": ("-1",), "optimizer.warmup_steps": ("-1",),
        "save_every": ("0",), "export_dtype": ("int8",), "seed": (str(2**32),),
    },
    "train-diffusion": {
        "denoiser": ("{zz: 1}", "{layers_per_block: many}"), "timesteps.focus": ("0", "2"), "ema_decay": ("-1", "1.5"),
        "timesteps.share": ("-1", "2"), "timesteps.levels": ("[]", "[5, 3]", "[0, 1200]"), "samples.steps": ("0", "7"),
        "samples.count": ("-1",), "figures.levels": ("[30]", "[-1]"), "figures.steps": ("0", "7"),
        "figures.images": ("0",), "figures.classifier": ("{name: no_such}", "{zz: 1}"),
    },
}  # fmt: skip

OVERRIDES = (
    "x", "=3", " =1", ".=1", "a..b=1", f"{LONGER}=1", f"{'a.' * 3000}b=1", "rows.a\udcff.x=1", "seed.x=1", "data=1",
    "rows./=1", "rows.a=1", "rows.x/../y.purifier.name=none", "include=[digits.yaml]", "seed=@", "seed=%", "seed=*x",
    "seed=!x", "seed=|", "seed=`touch EXECUTED`", "seed=$(touch EXECUTED)", "seed=\u202e1", "seed=1_0x", "seed=0b2",
    "attack.eps=8//255", "attack.eps=8/255/2", "attack.eps=./.", "attack.eps=-8/255", "output=[", "--seed=3",
    "--rows=", "--rows=,", f"--rows={LONGER}", "--rows=a\nb", f"--{LONGER}", "--plan-seconds=abc",
)  # fmt: skip
"""What else can be wrong in arguments of ``evaluate``."""

FILES = {
    "binary": bytes(range(256)) * 9, "empty.npz": b"", "utf16": "seed: 1".encode("utf-16"), "latin1": b"output: \xe9",
    "nul": b"seed: 1\0", "deep": b"a: " + b"[" * 3000 + b"]" * 3000, "nested": b"trainer: " + b"{a: " * 60 + b"}" * 60,
    "execute": f"seed: {EXECUTE}".encode(), "bomb": BOMB.replace(", a", "\na").encode(), "cycle": b"seed: &a [*a]",
    "text": b"x" * 100_000, "key": b"x" * 1000 + b": 1", "list": b"- 1", "twice": b"seed: 1\nseed: 2",
    "environment": b"seed: ${oc.env:HOME}", "itself": b"output: ${output}", "missing": b"seed: ???",
    "no_text": b"? [1]\n: 3", "set": b"trainer: !!set {a}", "date": b"output: !!timestamp 2001-01-01",
    "includes_pipe": b"include: [pipe]", "includes_long": f"include: [{LONG}]".encode(),
    "includes_itself": b"include: [includes_itself]",
}  # fmt: skip
"""Files that are no configs."""

CONFIGS = (
    *FILES, "", "folder", "pipe", "/dev/null", LONG, LONGER, "~nosuchuser/x.yaml", "a\udcff", "a\0b", "a\nb", "/",
    "binary/x", "pieces",
)  # fmt: skip
"""What else can be wrong with ``--config``."""

FOLDERS = (
    "no_such", LONG, LONGER, "~nosuchuser/x", "binary", "folder", "pipe", "/dev/null", "a\udcff", "a\0b",
    *(f"run/{name}" for name in ("binary", "empty.npz", "deep", "bomb", "list", "utf16", "execute", "pipe")),
)  # fmt: skip
"""What else can be wrong with a run folder; ``run/NAME`` has the file NAME for its ``config.yaml``."""

EVALUATION = ("--config", "digits.yaml")
LINES: tuple[tuple[str, ...], ...] = (
    (), ("evalute",), (LONGER,), ("a\udcff",), ("a\0b",), ("a\nb",), (f"--{LONGER}",), ("evaluate",),
    ("evaluate", "--config"), ("plan", *EVALUATION, "--seconds=nan"), ("plan", *EVALUATION, "--rate=x"),
    ("plan", *EVALUATION, "--rate=denoiser=inf"), ("plan", *EVALUATION, f"--rate={LONGER}"),
    ("verify", "run/list", "--samples=-1"), ("verify", "run/list", "--samples=" + "9" * 5000),
    ("figures", "joint", "no_such", "--device=nosuch"), ("figures", LONGER, "no_such"), ("figures", "a\nb", "no_such"),
    ("report", "no_such", "--over=x", f"--output={LONGER}"), ("report", "no_such", "--output=x.png"),
    ("purify", "no_such", *EVALUATION, "--output=out"), ("purify", "pipe", *EVALUATION, "--output=out"),
    ("purify", "folder", *EVALUATION, "--output=out"), ("purify", LONG, *EVALUATION, "--output=out"),
    ("purify", "binary", *EVALUATION, f"--output={LONG}"), ("purify", "binary", *EVALUATION, "--output=binary"),
    ("purify", "binary", *EVALUATION, "--output=out", "attack.eps=.inf"),
    ("purify", "binary", *EVALUATION, "--output=out", f"--row={LONGER}"),
    ("masks", *EVALUATION, "output=out", "pictures=0"), ("masks", *EVALUATION, "output=out", "purifier.tau=.nan"),
    ("convert", "no_such", "x", "--format=edm"), ("convert", "binary", "x", "--format=edm"),
    ("convert", LONG, "x", "--format=ddpm"), ("convert", "folder", "x", "--format=ddpm"),
    ("convert", "binary", "x", f"--format={LONGER}"), ("workspace",), ("workspace", f"--json={LONG}"),
    ("workspace", "--json=folder"), ("check", "no_such"), ("check", LONGER), ("check", "uniform", "t=.inf"),
    ("check", "uniform", "t=many"), ("check", "uniform", "t"), ("check", "uniform", "zz=1"), ("check", "x.py:Y"),
    ("configs", "a", "b"), ("plugins", "x"),
)  # fmt: skip
"""What else can be wrong in command lines."""


def keys(schema: type, prefix: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The dotted keys of a schema with their kinds, as in ``WRONG``."""
    for name, hint in get_type_hints(schema).items():
        hint = next(filter(dataclasses.is_dataclass, get_args(hint)), hint)  # a section that may be null
        if dataclasses.is_dataclass(hint):
            yield f"{prefix}{name}", (dict,)
            yield from keys(cast(type, hint), f"{prefix}{name}.")
        else:
            kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            yield f"{prefix}{name}", tuple(get_origin(kind) or kind for kind in kinds if kind is not NoneType)


def overrides(command: str) -> Iterator[str]:
    """Overrides of a command's config, each of which is to be refused."""
    never, turn = itertools.cycle(NEVER), itertools.count()
    for prefix, schema in SCHEMAS[command].items():
        for key, kinds in keys(schema, prefix):
            yield f"{key}={next(never)}"
            if kinds == (dict,):
                yield f"{key}.zznosuch=1"
            if Any not in kinds:  # of any kind are attack.gradient and what is inside rows, whose values are in RANGES
                first, *others = (WRONG[kind] for kind in kinds)
                wrong = [value for value in first if all(value in other for other in others)]
                yield from (f"{key}={wrong[next(turn) % len(wrong)]}" for _ in range(2))
    for key, values in itertools.chain(SHARED.items(), RANGES[command].items()):
        yield from (f"{key}={value}" for value in values)


class WouldBegin(BaseException):
    """The command has accepted everything, and would begin to write."""


def begin(*_: Any, **__: Any) -> Any:
    raise WouldBegin


Refusal = Callable[..., str | None]


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refusal:
    """A function that runs a command line and says what is wrong with how it is refused; None where nothing is."""
    monkeypatch.setattr("hetpure.evaluation.run.ProcessMonitor", begin)
    monkeypatch.setattr("hetpure.training.run.claim", begin)
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).write_bytes(content)
        run = Path("run", name)
        run.mkdir(parents=True)
        (run / "config.yaml").write_bytes(content)
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("run/pipe").mkdir()
    os.mkfifo("run/pipe/config.yaml")
    there = {path for path in tmp_path.rglob("*")}

    def refused(line: Sequence[str], *named: str) -> str | None:
        start = time.process_time()
        try:
            code = main(line)
        except WouldBegin:
            return "is accepted"
        except BaseException as error:
            return f"raises {type(error).__name__}: {error}"
        seconds, errors = time.process_time() - start, capfd.readouterr().err
        if code not in (BAD_INPUT, STOPPED) or not errors.startswith("error: "):
            return f"ends with {code}: {errors}"
        if errors.count("\n") != 1 or len(errors) > 320 or not errors[:-1].isprintable():
            return f"is not refused in a line: {errors}"
        if named and not any(name in errors for name in named):
            return f"is refused without its key: {errors}"
        if left := {path for path in tmp_path.rglob("*")} - there:
            return f"leaves {left}"
        return f"takes {seconds:.1f} s" if seconds > 1.0 else None

    return refused


def check(refusal: Refusal, lines: Sequence[Sequence[str]], *named: Sequence[str]) -> None:
    """Holds every line to ``refusal``."""
    wrong = []
    for line, names in itertools.zip_longest(lines, named, fillvalue=()):
        if (problem := refusal(line, *names)) is not None:
            wrong.append(f"{[text[:60] for text in line[-2:]]} {problem}")
    assert not wrong, f"{len(wrong)} of {len(lines)}:\n" + "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_refuses_every_bad_value(command: str, refusal: Refusal) -> None:
    line = [command, *COMMANDS[command], "output=out"]
    assert refusal(line) == "is accepted"  # so it is the one override that is refused
    bad = list(dict.fromkeys(overrides(command)))
    assert len(bad) > 200
    names = [(key, key.rpartition(".")[2], key.partition(".")[0]) for key in (o.partition("=")[0] for o in bad)]
    check(refusal, [[*line, override] for override in bad], *names)


def test_bad_overrides_are_refused(refusal: Refusal) -> None:
    line = ["evaluate", *COMMANDS["evaluate"], "output=out"]
    assert refusal(line) == "is accepted"
    check(refusal, [[*line, override] for override in OVERRIDES])


def test_bad_config_files_are_refused(refusal: Refusal) -> None:
    check(refusal, [[command, "--config", config, "output=out"] for config in CONFIGS for command in COMMANDS])


def test_bad_run_folders_are_refused(refusal: Refusal) -> None:
    commands = (["report"], ["verify"], ["aggregate"], ["leaderboard", "--output=out"], ["figures", "joint"])
    check(refusal, [[*command, folder] for folder in FOLDERS for command in commands])


def test_bad_command_lines_are_refused(refusal: Refusal) -> None:
    check(refusal, LINES)
