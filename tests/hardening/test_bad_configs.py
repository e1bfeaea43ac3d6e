"""Bad configs and arguments: each is refused in one line, before anything is written, and nothing in it is executed.

Every key of the three schemas meets every bad value of its kind; then come lists of nasty files and arguments. All
commands run in this process, up to the point where they would begin to write.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
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
"""Commands whose configs are tried, with arguments that are right."""

EXECUTE = '!!python/object/apply:os.system ["touch EXECUTED"]'

NEVER = (
    "1" + "0" * 23, "9" * 5000, "0x" + "9" * 5000, "!!int abc", "!!bool abc", "!!float abc", "!!timestamp abc",
    "!!binary aGk=", EXECUTE, "${nowhere}", "[" * 500, "[1", '"a\\0b"', "a\udcffb", "x" * 5000,
    "{" + ", ".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['x'])}]" for i in range(12)) + "}",
)  # fmt: skip
"""Values that no key takes."""

SECTION, LIST, NAN, TEXT, EMPTY, FRACTION, ONE_AND_A_HALF = "{zz: 1}", "[[1]]", ".nan", "many", "''", "8/0", "1.5"
INFINITE = (".inf", "-.inf", "1e999")

WRONG: dict[Any, tuple[str, ...]] = {
    int: (SECTION, LIST, NAN, TEXT, EMPTY, FRACTION, ONE_AND_A_HALF, *INFINITE),
    float: (SECTION, LIST, NAN, TEXT, EMPTY, FRACTION, *INFINITE),
    bool: (SECTION, LIST, NAN, TEXT, EMPTY, FRACTION, ONE_AND_A_HALF, *INFINITE),
    str: (SECTION, LIST),
    Literal: (SECTION, LIST, NAN, TEXT, EMPTY, FRACTION, ONE_AND_A_HALF, *INFINITE),
    list: (SECTION, TEXT, "[.inf]", "['', {}]"),
    dict: (LIST, NAN, TEXT, EMPTY, FRACTION, ONE_AND_A_HALF, *INFINITE),
}
"""Values that a kind of key does not take."""

OPEN = ("rows", "grid", "trainer", "table.columns", "table.lines", "classifier.arguments", "denoiser", "data.zz")
ONLY_EVALUATION = ()

RANGES: dict[str, tuple[str, ...]] = {
    "seed": ("-1",), "threads": ("0", "1025"), "chunk_size": ("0", "-5", "1000000000000"), "precision": ("tf32",),
    "pictures": ("-1", "1000000000000"), "hang_minutes": ("-1", "1e300"),
    "output": ("''", "null", "~nosuchuser/x", "x/" + "y" * 256, "/dev/null/x"),
    "data.subset": ("0", "-1", "129999"), "data.subset_seed": ("-3", str(2**32)), "data.subset_skip": ("-1", "5000"),
    "data.batch_size": ("0", "1000000000000"), "data.workers": ("-1", "1000000000000"), "data.test_split": ("x",),
    "data.image_size": ("0", "1000000000000"), "data.crop_padding": ("-1", "1000000000000"),
    "data.name": ("magic", "''", "folder", "torch/magic", "hfds/"),
    "classifier.name": ("no_such", "''", "a/b.py:C", "no_such_package:C"), "classifier.mean": ("[0.1, 0.2]",),
    "classifier.std": ("[0.0]", "[-1.0]", "[0.1, 0.2]"), "classifier.crop_pct": ("0", "1.5"),
    "classifier.image_size": ("0", "1000000000000"), "classifier.arguments": ("{num_classes: many}", "{zz: 1}"),
    "classifier.weights": ("/no/such", "/", "''", "~nosuchuser/x", "y" * 300, "setup.py"),
    "denoiser.path": ("/no/such", "null", "~nosuchuser/x", "y" * 300), "denoiser.format": ("magic", "''", "edm"),
    "purifier.name": ("magic", "''", "x.py:Y", ":", "no_such_package:P"), "purifier.preset": ("magic",),
    "purifier.t_large": ("1.5", "0", "-1"), "purifier.t_small": ("-0.2", "0.3"), "purifier.eta": ("-1", "2"),
    "purifier.grid_size": ("0", "7", "1000000000000"), "purifier.U": ("0", "1000000000000"), "purifier.p": ("0",),
    "purifier.tau": ("7",), "purifier.blocks": ("[no_such]",), "purifier.steps": ("3",),
    "attack.name": ("magic", "''", "x.py:Y", "foolbox:no_such"), "attack.eps": ("-1",), "attack.steps": ("0",),
    "attack.step_size": ("0", "-1"), "attack.eot": ("0",), "attack.evaluations": ("0",), "attack.restarts": ("0",),
    "attack.gradient": ("magic", "{name: mask_aware, temperature: .inf}", "{name: 3}", "surrogate"),
    "attack.loss": ("magic", "''"), "attack.process": ("{t_small: .inf}", "{zz: 1}"),
    "ensemble.size": ("0", "1000000000000"), "protocols.resubmissions": ("0", "1000000000000"),
    "protocols.votes": ("-1", "1000000000000"), "honesty.images": ("-2",), "honesty.factor": ("1", "1000000000000"),
    "wandb.mode": ("online",), "table": ("{title: x}", "{columns: {a: 3}}", "{printed: table9, columns: {a: {}}}"),
    "grid": ("{purifier.tau: 3}", "{zz: [1]}", "{purifier.tau: []}", "{seed: [1]}", "{purifier.tau: [0.5, 0.5]}",
             f"{{purifier.tau: {[*range(200)]}, attack.eps: {[*range(200)]}}}"),
    "rows": ("[1]", "{a: 3}", "{a: {seed: 1}}", "{a: {attack: {zz: 1}}}", "{report.html: {}}", "{a/results.json: {}}",
             "{samples-000.jsonl: {}}", '{"a\\nb": {}}', '{"\\e[31m": {}}', f"{{{'a' * 256}: {{}}}}", "{a//b: {}}",
             "{../a: {}}", "{'': {}}", "{wandb: {}}"),
    "trainer.accelerator": ("tpu", "mps", "nosuch", "3", "[1]", ".nan"),
    "trainer.devices": ("0", "-5", "100000", "1" + "0" * 12, "[0, 0]", "[]", "[-1]", "many", "1.5", "{a: 1}", ".inf", "true"),
    "trainer.num_nodes": ("0", "-1", "many", "1000000000000", ".inf"),
    "trainer.strategy": ("ddp_nosuch", "deepspeed", "3", "[1]"), "trainer.max_time": ("many", "3.5", "[1]"),
    "trainer.max_steps": ("many", "-7", ".inf"), "trainer.log_every_n_steps": ("many", ".nan"),
    "trainer.profiler": ("nosuch", "3"), "trainer.benchmark": ("many",), "trainer.deterministic": ("many",),
    "trainer.plugins": ("nosuch", "3", "[3]"), "trainer.gradient_clip_val": (".inf", "many"),
    "trainer.detect_anomaly": ("many",), "trainer.precision": ("nosuch",), "trainer.callbacks": ("[1]",),
    "trainer.default_root_dir": ("[1]",), "trainer.sync_batchnorm": ("many",), "trainer.zz": ("1",),
    "trainer.num_sanity_val_steps": ("many",), "trainer.model_registry": ("3",),
}  # fmt: skip
"""Values out of a key's range; of ``trainer`` and ``data`` for every command."""

TRAINING_RANGES: dict[str, tuple[str, ...]] = {
    "trainer.max_steps": ("0", "null"), "optimizer.name": ("lion",), "optimizer.schedule": ("step",),
    "optimizer.lr": ("-1",), "optimizer.weight_decay": ("-1",), "optimizer.warmup_steps": ("-1",),
    "save_every": ("0",), "export_dtype": ("int8",), "seed": ("-1", str(2**32)), "output": ("''", "~nosuchuser/x"),
}  # fmt: skip

OF_TRAINING: dict[str, dict[str, tuple[str, ...]]] = {
    "train-classifier": {
        "label_smoothing": ("-0.1", "1"), "classifier.name": ("no_such", "x.py:Y"), "classifier.std": ("[0.0]",),
        "classifier.arguments": ("{num_classes: 3}", "{zz: 1}"), "classifier.image_size": ("0",),
    },
    "train-diffusion": {
        "denoiser": ("{zz: 1}", "{layers_per_block: many}"), "timesteps.focus": ("0", "2"), "ema_decay": ("-1", "1.5"),
        "timesteps.share": ("-1", "2"), "timesteps.levels": ("[]", "[5, 3]", "[0, 1200]"), "samples.steps": ("0", "7"),
        "samples.count": ("-1",), "figures.levels": ("[30]", "[-1]"), "figures.steps": ("0", "7"),
        "figures.images": ("0",), "figures.classifier": ("{name: no_such}", "{zz: 1}"),
    },
}  # fmt: skip

SCHEMAS: dict[str, dict[str, Any]] = {
    "evaluate": {
        "": EvaluateConfig,
        "purifier.": signature_schema(HeterogeneousPurifier, ("classifier", "denoiser"), name=(str, "")),
        "attack.": signature_schema(PGD, (), **COMMON),
        "classifier.": signature_schema(build_classifier, ()),
    },
    "train-classifier": {"": TrainClassifierConfig},
    "train-diffusion": {"": TrainDiffusionConfig},
}
"""The keys of each command by what stands before them."""


def keys(schema: type, prefix: str) -> Iterator[tuple[str, set[Any]]]:
    """The dotted keys of a schema with their kinds, as in ``WRONG``."""
    for name, hint in get_type_hints(schema).items():
        if dataclasses.is_dataclass(hint):
            yield f"{prefix}{name}", {dict}
            yield from keys(cast(type, hint), f"{prefix}{name}.")
        else:
            kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            yield f"{prefix}{name}", {get_origin(kind) or kind for kind in kinds} - {NoneType}


def overrides(command: str) -> Iterator[str]:
    """Overrides of a command's config that are wrong, each for one reason."""
    never = itertools.cycle(NEVER)
    for prefix, schema in SCHEMAS[command].items():
        for key, kinds in keys(schema, prefix):
            values = [next(never), next(never)]
            if Any not in kinds:  # attack.gradient, table.lines.ROW.columns
                first, *others = (WRONG[kind] for kind in kinds)
                values += [value for value in first if all(value in other for other in others)]
            yield from (f"{key}={value}" for value in values)
            if kinds == {dict} and key not in OPEN:
                yield f"{key}.zznosuch=1"
    ranges = RANGES
    if command != "evaluate":
        shared = {key: values for key, values in RANGES.items() if key.startswith(("data.", "trainer."))}
        ranges = {key: values for key, values in shared.items() if key not in ONLY_EVALUATION}
        yield from (f"{key}={value}" for key, values in TRAINING_RANGES.items() for value in values)
        yield from (f"{key}={value}" for key, values in OF_TRAINING[command].items() for value in values)
    yield from (f"{key}={value}" for key, values in ranges.items() for value in values)


class WouldBegin(BaseException):
    """The command has accepted everything and would begin to write."""


def begin(*_: Any, **__: Any) -> Any:
    raise WouldBegin


def problem(line: Sequence[str], output: Path, capfd: pytest.CaptureFixture[str], *named: str) -> str | None:
    """What is wrong with how a command refuses its arguments; None where all is as it should be."""
    before = time.process_time()
    try:
        code = main(line)
    except WouldBegin:
        return "is accepted"
    except BaseException as error:
        return f"raises {type(error).__name__}: {error}"
    seconds, errors = time.process_time() - before, capfd.readouterr().err
    if code not in (BAD_INPUT, STOPPED) or not errors.startswith("error: ") or "Traceback" in errors:
        return f"ends with {code}: {errors}"
    if errors.count("\n") > 3 or max(map(len, errors.splitlines())) > 320 or not errors[:-1].isprintable():
        return f"says too much: {errors}"
    if named and not any(name in errors for name in named):
        return f"does not name the key: {errors}"
    if output.exists():
        return f"leaves {output}"
    return f"takes {seconds:.1f} s" if seconds > 1.0 else None


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where commands would write; they stop before."""
    monkeypatch.setattr("hetpure.evaluation.run.ProcessMonitor", begin)
    monkeypatch.setattr("hetpure.training.run.claim", begin)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_refuses_every_bad_value(command: str, output: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = [command, *COMMANDS[command], f"output={output}"]
    with pytest.raises(WouldBegin):
        main(line)  # so it is the one override that is refused; and everything is imported
    wrong, bad = [], list(dict.fromkeys(overrides(command)))
    for override in bad:
        key = override.partition("=")[0]
        if what := problem([*line, override], output, capfd, key, key.rpartition(".")[2], f"{key.partition('.')[0]}."):
            wrong.append(f"{override[:80]!r} {what}")
    assert not wrong, f"{len(wrong)} of {len(bad)}: " + "\n".join(wrong)
    assert len(bad) > 300
    assert not (output.parent / "EXECUTED").exists()
