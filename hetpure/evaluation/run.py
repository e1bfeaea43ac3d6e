"""``evaluate.py``: evaluates every row of a config and leaves the results in a folder."""

import itertools
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.strategies import DDPStrategy

from hetpure.attacks.callback import AdversarialAttack
from hetpure.config import to_dict
from hetpure.config.trainer import build_trainer
from hetpure.data.datamodule import ImageDataModule
from hetpure.data.items import item
from hetpure.errors import ConfigError, RunError
from hetpure.evaluation.build import Row
from hetpure.evaluation.calls import calls_per_image
from hetpure.evaluation.config import RunSettings
from hetpure.evaluation.content import PLACES
from hetpure.evaluation.departures import departures
from hetpure.evaluation.evaluator import Evaluator
from hetpure.evaluation.heartbeat import Pulse
from hetpure.evaluation.pictures import draw_pictures, keep_pictures, keep_samples, recorded_pictures
from hetpure.evaluation.process_monitor import Watch
from hetpure.evaluation.progress import EvaluationProgress
from hetpure.evaluation.recorder import Recorder, to_exclude
from hetpure.evaluation.resolve import ChooseAuto, Given, content_here, resolve_rows
from hetpure.models.precision import allow_tf32
from hetpure.reports import write_reports
from hetpure.reports.dashboard import Dashboard
from hetpure.runs.claim import claim
from hetpure.runs.files import RESULTS
from hetpure.runs.honesty import Verdict, blind, check
from hetpure.runs.read import RunFolder, read_run
from hetpure.runs.records import Record, RecordStore
from hetpure.runs.results import Report, notes_on, table_rows, write_results

FREE = (
    "pictures",
    "data.batch_size",
    "honesty.images",
    "table",
    "grid",  # its combinations are rows, and a row more or less leaves the others as they are
    "hang_minutes",
    *PLACES,
)
"""Keys that may differ when an evaluation goes on."""


def run(
    config: RunSettings,
    only: Collection[str] | None = None,
    given: Given | None = None,
    choose_auto: ChooseAuto | None = None,
) -> Report:
    """Runs an evaluation from complete settings; what the output folder holds already is not computed again.

    The folder belongs to the whole config, whichever rows are evaluated in it: rows are independent of each other.

    Args:
        config: complete.
        only: names of the rows to evaluate now; None for all. The report has other rows as far as they have records.
        given: data and networks that are in hand; see ``hetpure.evaluate``.
        choose_auto: see ``resolve_rows``.

    Returns:
        The report that is written.

    Raises:
        ConfigError: before any evaluation, for anything in the config that cannot be.
        RunError: where it cannot go on; the table of what is finished is written, as far as that can be.
        KeyboardInterrupt: likewise.
    """
    config = replace(config, threads=config.threads or torch.get_num_threads())
    torch.set_num_threads(config.threads or 1)
    os.environ["OMP_NUM_THREADS"] = str(config.threads)  # Lightning's launcher would divide the cores otherwise
    trainer = evaluation_trainer(to_dict(config.trainer))
    set_precision(config, trainer)
    resolved = resolve_rows(config, trainer, only, given, choose_auto)
    config, data, rows = resolved.config, resolved.data, resolved.rows
    output, first = Path(config.output), trainer.is_global_zero
    claim(output, config, FREE, content_here(resolved, output) if rows else {})
    changed = departures(config)

    def report() -> Report:
        found = make_report(config, rows, data, resolved.absent, changed)
        try:
            write_results(found, output)
        except OSError as error:
            print(f"{output}: the results cannot be written: {error.strerror}", file=sys.stderr)
        return found

    def show() -> RunFolder:
        report()
        shown = write_reports(output)
        print(f"records, adversarial images, pictures and tables: {output}; to look at: {output / 'report.html'}")
        return shown

    if not rows:  # of a table: without one, what is absent is an error
        if first:
            show()
        return report()

    if first and not (output / RESULTS).exists():
        report()  # from now on the folder says under what its records are made, however the run ends

    def on_loss(reason: str) -> None:
        print(f"\nerror: {reason}; what was finished is kept, the same command goes on from there", file=sys.stderr)
        show()

    monitor = Watch(output, trainer.global_rank, trainer.world_size, on_loss, 60.0 * config.hang_minutes).start()
    dashboard = Dashboard(to_dict(config), output) if first else None
    if first:
        keep_samples(data, output)
    state = "done"
    try:
        for row in rows:
            _evaluate_with_variants(row, config, data, monitor)
            if dashboard is not None:
                _finish_row(row, config, data, dashboard)
    except BaseException as error:
        reason = monitor.reason(error)
        raised = error if reason is None else RunError(reason)
        state = " ".join(f"ended with {type(raised).__name__}: {raised}".split())[:500]
        if reason is not None:
            raise raised from None
        raise
    finally:
        monitor.leave(state)
        # Also after Ctrl-C or a failure: the table of what there is.
        if dashboard is not None:
            dashboard.finish(show())
    return make_report(config, rows, data, resolved.absent, changed)


def evaluation_trainer(settings: dict[str, Any]) -> lightning.Trainer:
    """Lightning's Trainer for an evaluation: one device by default, uneven shares left as they are.

    Raises:
        ConfigError: for what Lightning refuses.
    """
    ours: dict[str, Any] = {"devices": 1, **settings}
    if ours.get("strategy") == "ddp":
        # A process whose share is done waits for the others, however long their last attack takes; that none of them
        # is dead, ``Watch`` sees to.
        ours["strategy"] = DDPStrategy(timeout=timedelta(days=30))
    fixed = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "use_distributed_sampler": False,  # it pads, and padding counts a sample twice
        "inference_mode": False,  # attacks differentiate
    }
    return build_trainer({**ours, **fixed})


def set_precision(config: RunSettings, trainer: lightning.Trainer) -> None:
    """Sets what a precision needs set for the whole process.

    Raises:
        ConfigError: for a precision that the device does not have.
    """
    device = trainer.strategy.root_device.type
    if config.precision == "tf32" and device != "cuda":
        raise ConfigError(f"precision: found tf32, accepted on this device ({device}) are float32, bfloat16")
    allow_tf32(config.precision)


def evaluate_row(
    row: Row,
    trainer: lightning.Trainer,
    data: ImageDataModule,
    only: Sequence[int] | None = None,
    watch: Watch | None = None,
) -> None:
    """Evaluates the samples that have no record yet, each process its share.

    Args:
        row: what to evaluate.
        trainer: used once.
        data: the images.
        only: indices of the samples to evaluate; None for all.
        watch: told that work moves, and of a Ctrl-C before Lightning acts on it.

    Raises:
        RunError: where it cannot go on; finished batches are recorded.
        KeyboardInterrupt: after Ctrl-C, likewise.
    """
    left = len(set(data.indices) - to_exclude(row.store, data, only))
    if not left:
        if trainer.is_global_zero:
            print(f"{row.name}: all {len(data.indices if only is None else only)} images are done already")
        if trainer.world_size == 1:
            return  # several go on: whether anything is left is the first process's to say, in ``Recorder``
    share = len(range(trainer.global_rank, left, trainer.world_size))
    progress = EvaluationProgress(row.name, share, row.attack.steps if row.attack else 0)
    store = RecordStore(row.store.folder, row.store.protocols, trainer.global_rank)
    pulse = Pulse(watch, (row.model, *row.processes))
    callbacks: list[Any] = [Recorder(store, data, only), pulse, progress]
    if watch is not None:
        callbacks.append(LambdaCallback(on_exception=lambda _trainer, _model, error: _told(watch, error)))
    if row.attack is not None and row.gradient is not None:
        callbacks.append(
            AdversarialAttack(
                row.attack, row.gradient, pulse.before(progress.on_attack_iteration), row.processes, progress.say
            )
        )
    cast(Any, trainer).callbacks.extend(callbacks)
    try:
        trainer.test(Evaluator(row.model, row.protocols, progress.say), datamodule=data, verbose=False)
        trainer.strategy.barrier()  # the table needs every process's records
    except SystemExit:
        # Lightning turns Ctrl-C into an exit of its own.
        raise KeyboardInterrupt from None


def make_report(
    config: RunSettings,
    rows: Sequence[Row],
    data: ImageDataModule,
    absent: Mapping[str, list[str]],
    changed: Sequence[str] = (),
) -> Report:
    """The report of what the run's folder holds.

    Args:
        config: complete.
        rows: those that are evaluated now.
        data: the images.
        absent: what each other row lacks now. It is reported as it was evaluated before, if it was.
        changed: see ``departures``.
    """
    notes = [f"grid: {name} is left out: {reason}" for name, reason in config.left_out.items()]
    lines, checks, blinded = [], {}, {}
    for row in rows:
        records = row.store.read()
        names = [protocol.name for protocol in row.protocols]
        lines += table_rows(row.name, records, len(data.indices), names, row.conditions)
        notes += notes_on(row.name, records, int(config.chunk_size))
        if config.honesty.images and row.attack is not None:
            checks[row.name] = verdicts_on(row, records, config.honesty.factor, data)
        if images := blind(records):
            blinded[row.name] = images
    if absent:
        before = read_run(Path(config.output))
        for method in before.methods:
            if method.name in absent and method.records:
                lines += method.rows
                notes += notes_on(method.name, method.records, method.settings["chunk_size"])
        order = list(config.rows)
        lines.sort(key=lambda line: order.index(line.method))
        checks |= {name: before.report.checks[name] for name in absent if name in before.report.checks}
        blinded |= {name: before.report.blind[name] for name in absent if name in before.report.blind}
    missing = {name: reasons for name, reasons in absent.items() if reasons}
    return Report(describe(config), lines, notes, checks, blinded, missing, changed)


def verdicts_on(row: Row, records: Sequence[Record], factor: int, data: ImageDataModule) -> list[Verdict]:
    """The honesty checks of a row, from the records of it and its variants."""
    one_shot = [record for record in records if record.protocol == row.protocols[0].name]
    variants = {name: variant.store.read() for name, variant in row.variants.items()}
    attack = row.attack
    threat = attack.threat if attack is not None else None
    return check(
        one_shot,
        variants,
        factor,
        saved=row.store.adversarial,
        clean=lambda index: item(data.test_source, index)["image"].numpy(),
        run_length=attack.run_length if attack is not None else None,
        norm=threat.norm if threat else None,
        eps=threat.eps if threat else None,
    )


def describe(config: RunSettings) -> str:
    """What the rows have in common, in a line."""
    images = f"{config.data.subset} images of " if config.data.subset else ""
    images = f"{images[:-4]} after {config.data.subset_skip} of " if config.data.subset_skip else images
    text = f"{images}{config.data.name}; seed {config.seed}; chunks of {config.chunk_size}, {config.threads} threads"
    text += f"; networks in {config.precision}" if config.precision != "float32" else ""
    return text + ("; networks compiled" if config.compile else "")


def _evaluate_with_variants(row: Row, config: RunSettings, data: ImageDataModule, watch: Watch) -> None:
    evaluate_row(row, evaluation_trainer(to_dict(config.trainer)), data, watch=watch)
    for variant in row.variants.values():
        few = data.indices[: config.honesty.images]
        evaluate_row(variant, evaluation_trainer(to_dict(config.trainer)), data, few, watch)


def _told(watch: Watch, error: BaseException) -> None:
    """Says that this process was interrupted before Lightning stops the others for it."""
    if isinstance(error, KeyboardInterrupt):
        watch.leave("interrupted")


def _finish_row(row: Row, config: RunSettings, data: ImageDataModule, dashboard: Dashboard) -> None:
    """Scalars, loss curve and pictures of a finished row."""
    records = row.store.read()
    names = [protocol.name for protocol in row.protocols]
    lines = table_rows(row.name, records, len(data.indices), names, row.conditions)
    dashboard.rows(lines, calls_per_image(row, records))
    curves = [record.attack_loss for record in records if record.protocol == names[0] and record.attack_loss]
    if curves:
        # Attacks that leave broken samples alone have curves of different lengths.
        columns = [[x for x in column if x is not None] for column in itertools.zip_longest(*curves)]
        dashboard.curve(row.name, [sum(column) / len(column) for column in columns])
    pictures, amplification = recorded_pictures(row.model, row.store, data, config.pictures)
    if pictures:
        keep_pictures(pictures, amplification, row.store.folder)
        file = row.store.folder / "pictures.png"
        title = f"{row.name}; {row.conditions.attack}, {row.conditions.gradients}"
        try:
            draw_pictures(pictures, amplification, title, file)
        except OSError as error:
            print(f"{file}: {error.strerror}; going on without it", file=sys.stderr)
        else:
            dashboard.picture(row.name, file)
