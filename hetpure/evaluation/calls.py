"""What an image cost in denoiser calls: the part of the cost that no machine changes."""

from collections.abc import Sequence

from hetpure.evaluation.build import Row
from hetpure.runs.records import Record


def calls_per_image(row: Row, records: Sequence[Record]) -> dict[str, float]:
    """Denoiser calls an image, as the records have it.

    Args:
        row: whose purifiers say what a purification takes.
        records: the row's.

    Returns:
        ``attack_calls``: the gradients that were taken, times the purifications in each, times the attack process's
        calls (images tried out during a search are not counted); ``defense_calls``: of all predictions. Nothing where
        no sample has a result.
    """
    finished = [record for record in records if record.failure is None]
    if not finished:
        return {}
    purifications = max(record.draws for record in finished)
    sides = 2 if any(record.adversarial for record in finished) else 1
    calls = {"defense_calls": float(purifications * sides * row.model.purifier.network_calls)}
    if row.gradient is not None and row.processes:
        curves = [record.attack_loss for record in finished if record.protocol == row.protocols[0].name]
        gradients = sum(map(len, curves)) / len(curves)
        network_calls = row.gradient.purifications * row.processes[0].purifier.network_calls
        calls["attack_calls"] = float(gradients * network_calls)
    return calls
