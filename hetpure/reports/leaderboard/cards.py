"""The card of a submission: who made the defense, and where it is described. A YAML file, or RobustBench's JSON.

A card states nothing that is measured here: accuracies, attack and cost come from the run's records.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hetpure.config.schema import structure
from hetpure.errors import ConfigError, require
from hetpure.runs.files import read_mapping

NAMES = ("card.yaml", "card.json")
"""Where a run folder has its card."""

THREATS = ("Linf", "L2", "StAdv", "LPIPS")
"""Threat models that a card may name."""


@dataclass(frozen=True)
class ThreatCard:
    """The threat model that the defense was made for."""

    norm: str | None = None
    eps: float | None = None


@dataclass(frozen=True)
class Card:
    """What a submission says of itself.

    Attributes:
        name: of the work, such as its title.
        link: address of the paper, http or https.
        authors: in one line.
        venue: where it was published.
        code: address of the code.
        licence: of code and weights.
        dataset: as it is to be called; by default as the config calls it.
        architecture: of the classifier.
        additional_data: whether it was trained on data beyond the data set's training split; None if it is not said.
        threat: the threat model that the defense was made for.
        footnote: what a reader must know.
        methods: title of each of the run's methods, by its row; the run's own names by default.
    """

    name: str
    link: str | None = None
    authors: str = ""
    venue: str = ""
    code: str | None = None
    licence: str = ""
    dataset: str | None = None
    architecture: str = ""
    additional_data: bool | None = None
    threat: ThreatCard = field(default_factory=ThreatCard)
    footnote: str = ""
    methods: dict[str, str] = field(default_factory=dict)


def find_card(folder: Path) -> Card | None:
    """The card in a run folder; None without one. Raises as ``read_card`` does."""
    return next((read_card(folder / name) for name in NAMES if (folder / name).is_file()), None)


def read_card(file: Path) -> Card:
    """Reads a card: YAML with the keys of ``Card``, or a JSON file of RobustBench's ``model_info``.

    Raises:
        ConfigError: names the file, the key and what is accepted.
    """
    content = read_mapping(file, "submission's")
    try:
        card = card_of_model_info(content) if file.suffix == ".json" else structure(Card, content)
        for key in ("link", "code"):
            address = getattr(card, key)
            accepted = "an address that begins with http:// or https://"
            require(address is None or address.startswith(("http://", "https://")), key, address, accepted)
        require(card.threat.norm in (None, *THREATS), "threat.norm", card.threat.norm, ", ".join(THREATS))
        eps = card.threat.eps
        require(eps is None or 0.0 < eps < math.inf, "threat.eps", eps, "a number above 0, such as 8/255")
    except ConfigError as error:
        raise error.within(str(file)) from None
    return card


def card_of_model_info(info: Mapping[str, Any]) -> Card:
    """The card in the content of a RobustBench ``model_info`` file; its accuracies are not taken over.

    Raises:
        ConfigError: for a missing name, or values of another type.
    """
    eps: Any = info.get("eps")
    require(bool(info.get("name")), "name", info.get("name"), "the title of the work")
    require(eps is None or isinstance(eps, int | float | str), "eps", eps, "a number, or a fraction such as 8/255")
    threat = {} if eps in (None, "", "null") else {"norm": info.get("norm"), "eps": eps}
    more = info.get("additional_data")
    return Card(
        str(info["name"]),
        link=info.get("link") or None,
        authors=str(info.get("authors") or ""),
        venue=str(info.get("venue") or ""),
        code=info.get("code") or None,
        licence=str(info.get("licence") or ""),
        dataset=info.get("dataset") or None,
        architecture=str(info.get("architecture") or ""),
        additional_data=more if isinstance(more, bool) else None,
        threat=structure(ThreatCard, threat, "threat"),
        footnote=str(info.get("footnote") or ""),
    )


def model_info(card: Card, entry: Any) -> dict[str, Any]:
    """A submission's method in the layout of RobustBench's ``model_info`` files, with what was measured.

    Args:
        card: its card.
        entry: the method; see ``standings.Entry``.

    Returns:
        RobustBench's keys, accuracies in per cent as text there; ``norm``, ``code`` and ``licence`` are ours.
    """
    robust = entry.worst if entry.worst is not None else next(iter(entry.robust.values()), None)
    return {
        "link": card.link,
        "name": f"{card.name}: {entry.title}" if entry.title != card.name else card.name,
        "authors": card.authors,
        "additional_data": card.additional_data,
        "number_forward_passes": entry.calls or 1,
        "dataset": entry.dataset,
        "venue": card.venue,
        "architecture": card.architecture,
        "eps": None if entry.threat is None else f"{entry.threat[1]:g}",
        "clean_acc": f"{100 * entry.standard.value:.2f}",
        "reported": None,
        "autoattack_acc": None if robust is None else f"{100 * robust.value:.2f}",
        "footnote": card.footnote or None,
        "norm": None if entry.threat is None else entry.threat[0],
        "code": card.code,
        "licence": card.licence,
    }


def write_card(card: Card) -> str:
    """The card as YAML text."""
    import yaml

    plain = {key: value for key, value in asdict(card).items() if value not in (None, "", {})}
    if not any(plain.get("threat", {}).values()):
        plain.pop("threat", None)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)


def default_card(folder: Path) -> Card:
    """The card of a run that came without one: its folder's name."""
    return replace(Card(""), name=folder.resolve().name)


def as_json(value: Any) -> str:
    """JSON text that a person can read."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
