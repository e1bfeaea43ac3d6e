"""The leaderboard: counted from records, safe in a browser, usable on a phone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hetpure.cli import main
from hetpure.errors import ConfigError
from hetpure.reports.leaderboard.cards import Card, ThreatCard, card_of_model_info, model_info, read_card, write_card
from hetpure.reports.leaderboard.standings import boards, read_submission
from hetpure.runs.records import Record
from hetpure.runs.results import Conditions, Report, Verdict, table_rows, write_results
from hetpure.runs.store import RecordStore
from hetpure.runs.verification import Verification, fingerprint, write_verification
from tests import browser

PROTOCOLS = ["one-shot", "best of 3"]


def made(
    folder: Path,
    rows: dict[str, str],
    eps: float = 0.1,
    images: str = "00ff",
    calls: int | None = 2,
    checks: dict[str, list[Verdict]] | None = None,
) -> Path:
    """A run whose rows (METHOD or METHOD/COLUMN) have right (1) and wrong (0) adversarial images."""
    config = {
        "data": {"name": "digits"},
        "purifier": {"name": "none"},
        "attack": {"name": "pgd", "norm": "Linf", "eps": eps},
        "protocols": {"resubmissions": 3, "votes": 0},
        "rows": {name: {} for name in rows},
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "content.yaml").write_text(f"data: {{images: {images}}}\n")
    lines = []
    for name, outcomes in rows.items():
        store = RecordStore(folder / name, PROTOCOLS)
        records = []
        for index, outcome in enumerate(outcomes):
            attacked = 1 if outcome == "1" else 2
            for protocol, n in zip(PROTOCOLS, (1, 3), strict=True):
                # The last submission of an even image is wrong, whatever the first was.
                predictions = [attacked] * n if n == 1 or index % 2 else [attacked, attacked, 2]
                clean, scores = [[0.0, 1.0, 0.5]] * n, [[0.0, 0.6, 0.1 + p / 3] for p in predictions]
                records.append(Record(index, protocol, 1, [1] * n, clean, predictions, scores))
        store.append(records, {})
        conditions = Conditions(f"PGD {name.partition('/')[2] or 'alone'}", "exact", 4, 5, calls)
        lines += table_rows(name, store.read(), len(outcomes), PROTOCOLS, conditions)
    write_results(Report("a title", lines, (), checks or {}), folder)
    return folder


def test_entries_are_counted_from_records(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {"ours/pgd": "1101", "ours/apgd": "0111", "plain": "0001"})
    submission = read_submission(run)
    ours, plain = submission.entries
    assert (ours.title, ours.dataset, ours.threat, ours.images) == ("ours", "digits", ("Linf", 0.1), 4)
    assert {name: value.value for name, value in ours.robust.items()} == {"PGD pgd": 0.75, "PGD apgd": 0.75}
    assert ours.worst is not None and (ours.worst.value, ours.worst.count) == (0.5, 4)  # images 1 and 3
    assert ours.lowest is ours.worst and plain.worst is None and plain.lowest.value == 0.25
    assert ours.repeated is not None and ours.repeated[0] == "best of 3" and ours.repeated[1].value == 0.5
    assert ours.calls == 10 and ours.standard.value == 1.0
    (board,) = boards([submission])
    assert [entry.title for _, entry in board.entries] == ["ours", "plain"] and board.same_images


def test_boards_are_kept_apart_by_data_and_threat(tmp_path: Path) -> None:
    runs = [
        made(tmp_path / "a", {"a": "11"}),
        made(tmp_path / "b", {"b": "10"}, eps=0.2),
        made(tmp_path / "c", {"c": "10"}, images="1234"),
    ]
    (tmp_path / "b" / "card.yaml").write_text("name: B\ndataset: CIFAR-10\n")
    tables = boards([read_submission(run) for run in runs])
    assert [(t.dataset, t.threat, [e.title for _, e in t.entries]) for t in tables] == [
        ("CIFAR-10", ("Linf", 0.2), ["b"]),
        ("digits", ("Linf", 0.1), ["a", "c"]),
    ]
    assert not tables[1].same_images


def test_attacks_beyond_norm_balls_have_boards_of_their_own(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {"ours/pgd": "1101", "ours/stadv": "0111"})
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["rows"]["ours/stadv"] = {"attack": {"name": "stadv", "norm": "StAdv", "eps": 0.05}}
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    submission = read_submission(run)
    tables = boards([submission])
    assert [table.threat for table in tables] == [("Linf", 0.1), ("StAdv", 0.05)]
    assert all(len(table.entries) == 1 and table.entries[0][1].worst is None for table in tables)
    info = model_info(submission.card, tables[1].entries[0][1])
    assert card_of_model_info(info).threat == ThreatCard("StAdv", 0.05)
    (run / "card.json").write_text(json.dumps(info))
    assert read_card(run / "card.json").threat.norm == "StAdv"


def test_a_verification_counts_for_the_content_that_it_was_made_of(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {"a": "11"})
    assert read_submission(run).verified == "not verified"
    passed = Verification(fingerprint(run), [Verdict("table", True, "")])
    write_verification(passed, run)
    assert read_submission(run).verified == "verified"
    own = tmp_path / "own" / "run"
    own.mkdir(parents=True)
    assert read_submission(run, tmp_path / "own").verified == "not verified"
    write_verification(Verification(fingerprint(run), [Verdict("table", False, "")]), own)
    assert read_submission(run, tmp_path / "own").verified == "failed"
    file = run / "a" / "samples-000.jsonl"
    file.write_text(file.read_text().replace('"label": 1', '"label": 2'))
    assert read_submission(run).verified == "not verified"


def test_cards_and_model_infos_are_made_from_each_other(tmp_path: Path) -> None:
    card = Card(
        "A work", "https://example.org/paper", "A. Author", "A venue 2026", None, "MIT", "digits", "ResNet-8", False,
        ThreatCard("Linf", 0.1), "A note.",
    )  # fmt: skip
    run = made(tmp_path / "run", {"ours": "1100"})
    (run / "card.yaml").write_text(write_card(card))
    submission = read_submission(run)
    assert submission.card == card
    info = model_info(card, submission.entries[0])
    assert info["name"] == "A work: ours" and info["autoattack_acc"] == "50.00" and info["clean_acc"] == "100.00"
    (run / "card.yaml").unlink()
    (run / "card.json").write_text(json.dumps({**info, "name": "A work"}))
    assert read_submission(run).card == card
    published = {  # the keys of a file of RobustBench's, with its kinds of values
        "link": "https://example.org", "name": "B", "authors": "B", "additional_data": True, "eps": "8/255",
        "number_forward_passes": 1, "dataset": "cifar10", "venue": "", "architecture": "WideResNet-28-10",
        "clean_acc": "89.02", "reported": "85.42", "autoattack_acc": "84.1", "footnote": None,
    }  # fmt: skip
    assert card_of_model_info(published).threat == ThreatCard(None, 8 / 255)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("link: https://x", "name: must be given"),
        ("name: A\nlinkk: x", "linkk: unknown key; accepted: .* did you mean link"),
        ("name: A\nlink: javascript:alert(1)", r"link is 'javascript:alert\(1\)'; accepted: an address that begins"),
        ("name: A\ncode: ftp://x", "code is 'ftp://x'"),
        ("name: A\nthreat: {norm: L7}", "threat.norm is 'L7'; accepted: Linf, L2"),
        ("name: A\nthreat: {eps: -1}", "threat.eps is -1.0"),
        ("- a list", "is not a submission's folder: card.yaml is not a mapping"),
        ("name: [", "card.yaml cannot be read"),
    ],
)
def test_a_bad_card_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_card(tmp_path / "card.yaml")
    assert "\n" not in str(error.value) and "card.yaml" in str(error.value)


def test_bad_input_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path / "run", {"a": "11"})
    (run / "card.yaml").write_text("name: A\nmethods: {b: B}\n")
    for folders in ([run], [tmp_path / "nothing"]):
        assert main(["leaderboard", *map(str, folders), "--output", str(tmp_path / "site")]) == 2
        assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "site").exists()
    (run / "card.yaml").unlink()
    command = ["leaderboard", str(run), "--output", str(tmp_path / "site"), "--verifications", str(tmp_path / "no")]
    assert main(command) == 2 and "--verifications" in capsys.readouterr().err


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two submissions with hostile names; one with a failed honesty check and code, one verified."""
    root = tmp_path_factory.mktemp("board")
    first = made(root / "x" / "run", {"ours/pgd": "1111", "ours/apgd": "1101"})
    card = {"name": "<img src=x onerror=alert(1)>", "authors": "Zoe", "link": 'https://x/"onmouseover="alert(1)'}
    (first / "card.yaml").write_text(yaml.safe_dump({**card, "code": "https://example.org/code"}))
    failed = {"plain": [Verdict("huge eps", False, "2 of 4")]}
    second = made(root / "y" / "run", {"plain": "0001"}, checks=failed, calls=None)
    write_verification(Verification(fingerprint(second), [Verdict("table", True, "")]), second)
    assert main(["leaderboard", str(first), str(second), "--output", str(root / "site")]) == 0
    return root / "site"


def test_the_site_has_pages_and_cards_and_loads_nothing(site: Path) -> None:
    assert sorted(p.name for p in (site / "runs").iterdir()) == ["run", "run-2"]
    for name in ("report.html", "card.yaml", "model_info-1.json"):
        assert (site / "runs" / "run" / name).is_file()
    text = (site / "index.html").read_text()
    assert "<img" not in text and "&lt;img" in text and 'onmouseover="' not in text
    assert "default-src &#39;none&#39;" in text and "src=" not in text.replace("&lt;img src=", "").lower()


@pytest.fixture(scope="module")
def window() -> Iterator[browser.Browser]:
    if browser.installed() is None:
        pytest.skip(f"no browser is installed: none of {', '.join(browser.NAMES)}")
    with browser.Browser() as window:
        yield window


def test_a_person_sorts_and_filters(site: Path, window: browser.Browser) -> None:
    window.open(site / "index.html")
    rows = "[...document.querySelectorAll('tbody tr')]"

    def shown() -> list[str]:
        return window.run(f"{rows}.filter(e => e.checkVisibility()).map(e => e.querySelector('th a').textContent)")

    seen = window.text("body")
    assert "digits, Linf 0.1" in seen and "<img src=x onerror=alert(1)>" in seen and "2 of 2 entries" in seen
    assert "75.00 [30.1, 95.4]" in seen and "of 2 attacks" in seen and "honesty: failed" in seen
    assert shown() == ["ours", "plain"]
    head = "[...document.querySelectorAll('thead th button')].find(e => e.textContent === '{}')"
    window.click(head.format("method"))
    window.click(head.format("method"))
    assert shown() == ["plain", "ours"]
    window.click(head.format("robust, worst case"))
    assert shown() == ["ours", "plain"]
    window.click("document.getElementById('verified')")
    assert shown() == ["plain"] and window.text("#count") == "1 of 2 entries"
    window.click("document.getElementById('honest')")
    assert shown() == [] and not window.run("document.querySelector('.board').checkVisibility()")
    window.click("document.getElementById('verified')")
    assert shown() == ["ours"]
    link = window.run("document.querySelector('tbody tr:not([hidden]) th a').getAttribute('href')")
    window.open(site / link)
    assert "ours" in window.text("h1 ~ *, body")
