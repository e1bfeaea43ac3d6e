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
        ``attack_calls``: the gradients that were asked for, times the draws of each, times the attack process's calls
        (images tried out during a search are not counted); ``defense_calls``: of all predictions. Nothing where no
        sample has a result.
    """
    done = [record for record in records if record.failure is None]
    if not done:
        return {}
    shots = [record for record in done if record.protocol == row.protocols[0].name]
    draws = max(record.draws for record in done)
    sides = 2 if any(record.adversarial for record in done) else 1
    calls = {"defense_calls": float(draws * sides * row.model.purifier.network_calls)}
    if row.gradient is not None and row.processes:
        gradients = sum(len(record.attack_loss) for record in shots) / len(shots)
        known = row.settings["gradient"]["name"] == "deterministic"  # differentiates all of the defender's draws
        draws = row.model.ensemble_size if known else row.gradient.eot
        calls["attack_calls"] = float(gradients * draws * row.processes[0].purifier.network_calls)
    return calls
