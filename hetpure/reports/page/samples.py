"""What the page's browser of samples knows: every sample's outcome, and as much else as a page can carry."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hetpure.reports.page.embed import Album
from hetpure.runs.images import shrunk, to_pixels
from hetpure.runs.read import Method, RunFolder
from hetpure.runs.records import Record

DETAILS = 6000
"""Samples, over all methods, that carry scores and loss curves; later ones their outcomes alone."""

POINTS = 60
"""Values of a sample's loss curve, at most."""

THUMBNAIL = 64
"""Longest side of small adversarial images, in pixels."""

SCORES = {"mean_logits": "mean logits", "mean_probs": "mean probabilities", "vote": "shares of votes"}
"""What the one-shot scores of each ensemble mode are."""

TOP = 3
"""Classes whose scores are shown."""


def outcome(record: Record) -> str:
    """What became of a sample under one protocol.

    ``survived``: its adversarial image is right (so these make the robust accuracy). ``broken``: right when clean,
    wrong when attacked. ``wrong``: wrong either way. ``right``: right, and not attacked. ``failed``: no result.
    """
    clean, adversarial = record.right("clean"), record.right("adversarial")
    if record.failure is not None or clean is None:
        return "failed"
    if adversarial is None:
        return "right" if clean else "wrong"
    return "survived" if adversarial else "broken" if clean else "wrong"


def browser_data(run: RunFolder, album: Album) -> dict[str, Any]:
    """The browser's data, JSON all through.

    Args:
        run: the run's folder.
        album: takes the images: first all pictured steps, then small clean images, then small adversarial ones,
            sample by sample over all methods.
    """
    methods = [_method(method) for method in run.methods]
    for found, method in zip(methods, run.methods, strict=True):
        for index, panels in (method.pictures.panels if method.pictures else {}).items():
            if index in found["samples"]:
                uris = [(heading, album.add(pixels, heading)) for heading, pixels in panels.items()]
                found["samples"][index]["panels"] = [list(pair) for pair in uris if pair[1] is not None]
    indices = list(run.samples.indices)
    seen = {index for found in methods for index in found["samples"]}
    order = [index for index in indices if index in seen] + sorted(seen - set(indices))
    clean = {}
    for index in order:
        if index in run.samples.clean and (uri := album.add(run.samples.clean[index])):
            clean[index] = uri
    firsts = [{record.index: record for record in reversed(method.records)} for method in run.methods]
    unread = 0
    for index in order:
        for found, method, first in zip(methods, run.methods, firsts, strict=True):
            if index not in first or first[index].image is None or album.full:
                album.left_out += index in first and first[index].image is not None
                continue
            pixels = _adversarial(method, first[index])
            if pixels is None:
                unread += 1
            elif uri := album.add(pixels):
                found["samples"][index]["adversarial"] = uri
    detailed = 0
    for index in order:
        for found, first in zip(methods, firsts, strict=True):
            if index in first and detailed < DETAILS:
                detailed += 1
                found["samples"][index] |= _details(first[index])
    names = {str(index): name for index, name in enumerate(run.samples.classes)}
    for found in methods:
        found["samples"] = [found["samples"][index] for index in order if index in found["samples"]]
    total = sum(len(found["samples"]) for found in methods)
    said = [f"{album.left_out} small images are left out: the page holds {album.limit / 1e6:g} MB of them"] * bool(
        album.left_out
    )
    said += [f"{unread} adversarial images could not be read from their files"] * bool(unread)
    said += [f"scores and loss curves of {total - detailed} samples are left out"] * (total > detailed)
    return {"classes": names, "clean": clean, "methods": methods, "said": said}


def _method(method: Method) -> dict[str, Any]:
    samples: dict[int, dict[str, Any]] = {}
    for record in method.records:
        of = samples.setdefault(record.index, {"index": record.index, "label": record.label, "protocols": {}})
        of["protocols"][record.protocol] = [outcome(record), record.clean, record.adversarial]
        if record.failure is not None:
            of["failure"] = record.failure
    pictures = method.pictures
    return {
        "name": method.name,
        "protocols": [row.protocol for row in method.rows],
        "score": SCORES.get(method.settings["ensemble"].get("mode"), "scores"),
        "amplification": f"{pictures.amplification:.3g}" if pictures else "",
        "samples": samples,
    }


def _details(record: Record) -> dict[str, Any]:
    """Scores, loss and draws of a sample's first protocol."""
    found: dict[str, Any] = {"seconds": _short(record.seconds)}
    if record.image is not None:
        found["file"] = record.image
    for side, scores in (("cleanScores", record.clean_scores), ("attackedScores", record.adversarial_scores)):
        if scores:
            found[side] = _top(scores[0], record.label)
    for key, values in (("loss", record.attack_loss), ("right", record.attack_correct)):
        if len(values) > 1:
            found[key] = [_short(value) for value in _thinned(values)]
            found["iterations"] = len(values)
    return found


def _top(scores: Sequence[float], label: int) -> list[list[float]]:
    """The highest scores as (class, score), the true class's among them."""
    order = sorted(range(len(scores)), key=lambda k: -scores[k])[:TOP]
    if label not in order:
        order[-1] = label
    return [[k, _short(scores[k])] for k in order]


def _thinned(values: Sequence[float]) -> Sequence[float]:
    """At most ``POINTS`` values, first and last among them."""
    if len(values) <= POINTS:
        return values
    return [values[k] for k in np.linspace(0, len(values) - 1, POINTS).round().astype(int)]


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _adversarial(method: Method, record: Record) -> np.ndarray | None:
    try:
        image = method.store.adversarial(record)
    except Exception:  # deleted, cut short, another's: each layer of the file has its own error
        return None
    return None if image is None else to_pixels(shrunk(image, THUMBNAIL))
