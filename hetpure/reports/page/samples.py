"""The data of the page's sample browser: every sample's outcome, and as many details as a page can hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hetpure.reports.page.charts import thinned
from hetpure.reports.page.embed import Album
from hetpure.runs.images import shrunk, to_pixels
from hetpure.runs.read import Method, RunFolder
from hetpure.runs.records import Record

DETAILS = 6000  # samples, over all methods, that have scores and loss curves; later ones have only their outcomes
POINTS = 60  # values of a sample's loss curve, at most
THUMBNAIL = 64  # longest side of small adversarial images, in pixels
TOP = 3  # classes whose scores are shown
SCORES = {"mean_logits": "mean logits", "mean_probs": "mean probabilities", "vote": "shares of votes"}


def outcome(record: Record) -> str:
    """The outcome of a sample under one protocol.

    ``survived``: its adversarial image is classified right; these samples make the robust accuracy. ``broken``: right
    when clean, wrong when attacked. ``wrong``: wrong either way. ``right``: right, and not attacked. ``failed``: no
    result.
    """
    clean, adversarial = record.right("clean"), record.right("adversarial")
    if record.failure is not None or clean is None:
        return "failed"
    if adversarial is None:
        return "right" if clean else "wrong"
    return "survived" if adversarial else "broken" if clean else "wrong"


def browser_data(run: RunFolder, album: Album) -> dict[str, Any]:
    """The browser's data, all of it JSON.

    The album takes first the pictured steps, then small clean images, then small adversarial ones, sample by sample
    over all methods.
    """
    samples = [_samples(method) for method in run.methods]
    first = [{record.index: record for record in reversed(method.records)} for method in run.methods]
    recorded = {index for method in first for index in method}
    indices = [index for index in run.samples.indices if index in recorded]
    indices += sorted(recorded - set(indices))
    for own, method in zip(samples, run.methods, strict=True):
        for index, panels in (method.pictures.panels if method.pictures else {}).items():
            if index in own:
                uris = [(heading, album.add(pixels, heading)) for heading, pixels in panels.items()]
                own[index]["panels"] = [[heading, uri] for heading, uri in uris if uri is not None]
    clean = {index: album.add(run.samples.clean[index]) for index in indices if index in run.samples.clean}
    rows = [
        (own[index], method, records[index])
        for index in indices
        for own, method, records in zip(samples, run.methods, first, strict=True)
        if index in records
    ]
    unread = 0
    for sample, method, record in rows:
        if record.image is None or album.left_out:
            album.left_out += record.image is not None
        elif (pixels := _adversarial(method, record)) is None:
            unread += 1
        elif uri := album.add(pixels):
            sample["adversarial"] = uri
    for method in run.methods:
        detailed = {record.index: (sample, record) for sample, of, record in rows[:DETAILS] if of is method}
        for record in method.store.whole(record for _, record in detailed.values()):
            sample, _ = detailed[record.index]
            sample |= _details(record)
    notes = []
    if album.left_out:
        notes.append(f"{album.left_out} small images are left out: the page holds {album.limit / 1e6:g} MB of them")
    if unread:
        notes.append(f"{unread} adversarial images could not be read from their files")
    if len(rows) > DETAILS:
        notes.append(f"scores and loss curves of {len(rows) - DETAILS} samples are left out")
    return {
        "classes": dict(enumerate(run.samples.classes)),
        "clean": {index: uri for index, uri in clean.items() if uri is not None},
        "methods": [
            {
                "name": method.name,
                "protocols": [row.protocol for row in method.rows],
                "score": SCORES.get(method.settings["ensemble"].get("mode"), "scores"),
                "amplification": f"{method.pictures.amplification:.3g}" if method.pictures else "",
                "samples": [own[index] for index in indices if index in own],
            }
            for method, own in zip(run.methods, samples, strict=True)
        ],
        "notes": notes,
    }


def _samples(method: Method) -> dict[int, dict[str, Any]]:
    """A method's samples by index: label, and outcome and predictions under each protocol."""
    samples: dict[int, dict[str, Any]] = {}
    for record in method.records:
        sample = samples.setdefault(record.index, {"index": record.index, "label": record.label, "protocols": {}})
        sample["protocols"][record.protocol] = [outcome(record), record.clean, record.adversarial]
        if record.failure is not None:
            sample["failure"] = record.failure
    return samples


def _details(record: Record) -> dict[str, Any]:
    """Scores, loss and draws of a sample's first protocol."""
    details: dict[str, Any] = {"seconds": _short(record.seconds)}
    if record.image is not None:
        details["file"] = record.image
    for side, scores in (("cleanScores", record.clean_scores), ("attackedScores", record.adversarial_scores)):
        if scores:
            details[side] = _top(scores[0], record.label)
    for key, values in (("loss", record.attack_loss), ("right", record.attack_correct)):
        if len(values) > 1:
            details[key] = [_short(value) for value in thinned(values, POINTS)]
            details["iterations"] = len(values)
    return details


def _top(scores: Sequence[float], label: int) -> list[list[float]]:
    """The highest scores as (class, score), the true class's among them."""
    order = sorted(range(len(scores)), key=lambda k: -scores[k])[:TOP]
    if label not in order:
        order[-1] = label
    return [[k, _short(scores[k])] for k in order]


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _adversarial(method: Method, record: Record) -> np.ndarray | None:
    image = method.store.adversarial(record)
    return None if image is None else to_pixels(shrunk(image, THUMBNAIL))
