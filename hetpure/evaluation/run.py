"""``hetpure evaluate``: evaluates every row of a config and leaves the results in a folder."""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from hetpure.attacks.callback import AdversarialAttack
from hetpure.config import to_dict
from hetpure.config.tracking import wandb_mode
from hetpure.config.trainer import build_trainer
from hetpure.data.datamodule import ImageDataModule
from hetpure.defense.certify import Certifier
from hetpure.defense.hooks import after_calls, networks
from hetpure.errors import ConfigError, RunError
from hetpure.evaluation.build import Row, expect, made_under
from hetpure.evaluation.config import TRAINER, RunSettings
from hetpure.evaluation.content import FREE
from hetpure.evaluation.failures import Failures
from hetpure.evaluation.pictures import keep_samples
from hetpure.evaluation.process_monitor import GOES_ON, ProcessMonitor
from hetpure.evaluation.progress import EvaluationProgress
from hetpure.evaluation.recorder import Recorder
from hetpure.evaluation.report import RunReport, finish_row
from hetpure.evaluation.resolve import ChooseAuto, Given, content_here, resolve_rows, with_sources
from hetpure.evaluation.sample_queue import SampleQueue
from hetpure.evaluation.strategy import IndependentProcesses
from hetpure.models.precision import allow_tf32
from hetpure.reports.dashboard import Dashboard
from hetpure.runs.claim import check_claim, claim
from hetpure.runs.files import RESULTS
from hetpure.runs.mend import mend
from hetpure.runs.results import Report


def run(
    config: RunSettings,
    only: Collection[str] | None = None,
    given: Given | None = None,
    choose_auto: ChooseAuto | None = None,
) -> Report:
    """Runs an evaluation; what the output folder holds already is not computed again. Returns the report.

    The folder belongs to the whole config, whichever rows are evaluated in it: rows are independent of each other. The
    report has the rows that are not evaluated now (``only``) as far as they have records. See ``resolve_rows``.

    Raises:
        ConfigError: before any evaluation, for anything in the config that cannot be.
        RunError: where it cannot go on; the table of what is finished is written, as far as that can be.
        KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM, likewise.
    """
    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that the Trainer starts
    trainer = evaluation_trainer(to_dict(config.trainer))
    set_precision(config, trainer)
    wandb_mode(config.wandb.mode)  # refused before anything is written
    resolved = with_sources(resolve_rows(replace(config, threads=threads), trainer, only, given, choose_auto))
    config, data, rows, output = resolved.config, resolved.data, resolved.rows, Path(config.output)
    report, is_first = RunReport(resolved), trainer.is_global_zero

    def on_hang(reason: str) -> None:
        print(f"\nerror: {reason}; {GOES_ON}", file=sys.stderr)
        if is_first:
            report.show()

    content = content_here(resolved, output) if rows else {}
    hashes = made_under(rows, config)
    check_claim(output, config, FREE, content, hashes)  # before it waits for another run there
    with ProcessMonitor(output, trainer, 60.0 * config.hang_minutes, on_hang) as monitor:
        expect(rows, data, claim(output, config, FREE, content, hashes))
        dashboard = Dashboard(to_dict(config), output) if is_first and rows else None
        if is_first and not (output / RESULTS).exists():
            report.write()  # from now on the folder says under what its records are made, however the run ends
        if is_first and rows:
            keep_samples(data, output)
        try:
            for row in rows:
                needed = row.attack.source_rows if row.attack is not None else ()
                for source in rows:
                    if source.name in needed and not is_first:  # the first process has waited already
                        evaluate_row(source, trainer, data, monitor=monitor, awaits_all=True)
                evaluate_row(row, trainer, data, monitor=monitor)
                for variant in row.variants.values():
                    evaluate_row(variant, trainer, data, data.indices[: config.honesty.images], monitor)
                if dashboard is not None:
                    finish_row(row, data, config.pictures, dashboard)
        except SystemExit:
            print(f"\nstopped by SIGTERM: {GOES_ON}", file=sys.stderr)
            raise
        finally:
            # Also after Ctrl-C or a failure: the table of what there is.
            run_folder = report.show() if is_first else None
            if dashboard is not None and run_folder is not None:
                dashboard.finish(run_folder)
    return report.written or report.make()


def evaluation_trainer(settings: Mapping[str, Any]) -> lightning.Trainer:
    """Lightning's Trainer for an evaluation: one device by default; several processes are ``IndependentProcesses``.

    Raises:
        ConfigError: for what Lightning refuses, and for keys that would leave samples out.
    """
    for key in ("limit_test_batches", "fast_dev_run", "overfit_batches", "barebones"):
        if key in settings:
            raise ConfigError(f"trainer.{key}", "leaves samples out; data.subset says how many are evaluated")
    settings = {"devices": 1, **settings, **TRAINER}
    trainer = build_trainer(settings)
    if isinstance(trainer.strategy, DDPStrategy):
        return build_trainer({**settings, "strategy": IndependentProcesses()})
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        raise ConfigError("trainer.strategy", found=settings["strategy"], accepted="auto, ddp")
    return trainer


def set_precision(config: RunSettings, trainer: lightning.Trainer) -> None:
    """Sets what a precision needs set for the whole process; refuses one that the device does not have."""
    device = trainer.strategy.root_device.type
    if config.precision == "tf32" and device != "cuda":
        accepted = "float32, bfloat16"
        raise ConfigError("precision", f"which this device ({device}) does not have", found="tf32", accepted=accepted)
    allow_tf32(config.precision)


def evaluate_row(
    row: Row,
    trainer: lightning.Trainer,
    data: ImageDataModule,
    only: Sequence[int] | None = None,
    monitor: ProcessMonitor | None = None,
    awaits_all: bool = False,
) -> None:
    """Evaluates the samples of a row that have no record yet, together with the run's other processes.

    Returns when this process finds no more to do; the first process, and any that ``awaits_all``, when all samples have
    a record. ``only`` has the indices of the samples to evaluate, None for all. The trainer gets the row's callbacks
    for the time being.

    Raises:
        RunError: where it cannot go on; finished batches are recorded.
        KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM, likewise.
    """
    monitor = monitor or ProcessMonitor(row.store.folder, trainer)
    store = row.store.for_process(trainer.global_rank)
    try:
        for text in mend(store, trainer.world_size):
            print(text, file=sys.stderr)
    except OSError as error:
        raise RunError(f"output: {store.folder} cannot be written: {error.strerror}") from None
    queue = SampleQueue(store, data.indices if only is None else only, trainer, awaits_all)
    left = queue.left()
    if not left:
        if trainer.is_global_zero:
            print(f"{row.name}: all {len(queue.samples)} images are done already")
        return
    progress = EvaluationProgress(row.name, left, row.attack.steps if row.attack else 0, trainer.is_global_zero)
    row.model.notify = progress.notify
    failures = Failures(row, store, data, partial(trainer.test, row.model, datamodule=data, verbose=False))
    callbacks: list[Callback] = [Recorder(store), progress]
    if (certify := row.certify) is not None:
        callbacks.insert(0, Certifier(certify.n0, certify.n, certify.alpha, progress.on_certificate))
    if row.attack is not None and row.gradient is not None:
        observe, notify = progress.on_attack_iteration, progress.notify
        how = (observe, row.processes, notify, row.checkpoints, row.settings["attack"].get("precision") == "tf32")
        callbacks.append(AdversarialAttack(row.attack, row.gradient, *how))
    others, trainer.callbacks = trainer.callbacks, [*trainer.callbacks, *callbacks]  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with after_calls(networks([row.model, *row.processes]), monitor.tick):
            while True:
                monitor.tick()
                samples = queue.take(data.batch_size)
                progress.update(queue.left())
                if samples:
                    failures.evaluate(samples)
                elif queue.is_awaited():
                    monitor.wait()
                else:
                    break
    except SystemExit as error:
        if error.code == 1:  # Lightning turns Ctrl-C into this
            raise KeyboardInterrupt from None
        raise
    finally:
        monitor.pause()
        queue.release()
        progress.close()
        data.samples = None
        trainer.callbacks = others  # pyright: ignore[reportAttributeAccessIssue]
