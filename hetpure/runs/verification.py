"""``verification.json``: which claims of a run were checked, and what came out."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hetpure import __version__
from hetpure.errors import ConfigError
from hetpure.runs.files import CONFIG, CONTENT, RESULTS, RUN, one_line, read_mapping, write_whole
from hetpure.runs.results import Verdict

VERIFICATION = "verification.json"

VERSION = 1
"""Version of the file's format."""

OUTCOMES = {True: "verified", False: "failed", None: "partly verified"}
"""The outcome in words, by ``Verification.passed``."""


@dataclass(frozen=True)
class Verification:
    """The verdicts on a run's claims.

    Attributes:
        fingerprint: of the folder that was checked; see ``fingerprint``.
        run: verdicts on the run as a whole. ``passed`` is None where a check could not be made.
        rows: verdicts by row, and by ``ROW/honesty/VARIANT``.
        samples: how many samples of each row were attacked again, at most.
        seed: of the fresh draws.
        hetpure: version of the program that checked.
    """

    fingerprint: str
    run: Sequence[Verdict] = ()
    rows: Mapping[str, Sequence[Verdict]] = field(default_factory=dict)
    samples: int = 0
    seed: int = 0
    hetpure: str = __version__

    @property
    def verdicts(self) -> list[Verdict]:
        """All of them."""
        return [*self.run, *(verdict for verdicts in self.rows.values() for verdict in verdicts)]

    @property
    def passed(self) -> bool | None:
        """False if any check failed; None if none did, but some could not be made; True if all passed."""
        outcomes = {verdict.passed for verdict in self.verdicts}
        return False if False in outcomes else None if None in outcomes or not outcomes else True


def write_verification(verification: Verification, folder: Path) -> Path:
    """Writes ``verification.json``.

    Raises:
        OSError: if it cannot be written; the old file stays.
    """
    content = {"format_version": VERSION, "outcome": OUTCOMES[verification.passed], **asdict(verification)}
    write_whole(folder / VERIFICATION, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return folder / VERIFICATION


def read_verification(folder: Path) -> Verification:
    """Reads ``verification.json``. Whoever shows it compares its fingerprint with the run's.

    Raises:
        ConfigError: if there is none, or it is damaged or newer.
    """
    content = read_mapping(folder / VERIFICATION, "verified run's")
    try:
        if (version := content["format_version"]) != VERSION:
            reason = f"has format version {version!r}; this hetpure reads {VERSION}"
        else:
            return Verification(
                str(content["fingerprint"]),
                _verdicts(content["run"]),
                {str(name): _verdicts(verdicts) for name, verdicts in content["rows"].items()},
                int(content["samples"]),
                int(content["seed"]),
                str(content["hetpure"]),
            )
    except KeyError as error:
        reason = f"lacks {error}"
    except (ValueError, TypeError, AttributeError) as error:
        reason = one_line(error)
    raise ConfigError(str(folder / VERIFICATION), reason)


def fingerprint(folder: Path) -> str:
    """A hash of all that is verified: settings, results, records and adversarial images; 32 hexadecimal digits.

    A verification belongs to a folder with the same fingerprint, under whatever name.

    Raises:
        OSError: if a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in _verified_files(folder):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _verified_files(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in (RUN, CONFIG, CONTENT, RESULTS) if (folder / name).is_file())
    for pattern in ("**/samples-*.jsonl", "**/adversarial/*.npz"):
        yield from sorted(file for file in folder.glob(pattern) if file.is_file())


def _verdicts(plain: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    verdicts = [Verdict(str(each["check"]), each["passed"], str(each["details"])) for each in plain]
    if any(verdict.passed not in (True, False, None) for verdict in verdicts):
        raise ValueError("passed is true, false or null")
    return verdicts
