"""``report.html``: what it says, that it cannot do harm, and what a person sees in a real browser."""

import base64
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hetpure.cli import main
from hetpure.config import read_config, to_dict, to_yaml
from hetpure.data import ImageDataModule
from hetpure.evaluation import pictures as kept
from hetpure.evaluation import run as module
from hetpure.evaluation.config import complete
from hetpure.evaluation.pictures import PictureRow, keep_pictures, keep_samples
from hetpure.reports import write_reports
from hetpure.reports.page.charts import correct_charts, loss_charts, submissions_charts
from hetpure.reports.page.embed import Album, png_uri
from hetpure.reports.page.render import page
from hetpure.reports.page.samples import browser_data, outcome
from hetpure.reports.tables.paper_table import PaperTable, TableCell, TableLine
from hetpure.reports.tables.printed import PrintedAccuracy
from hetpure.runs import images as pixels
from hetpure.runs.read import read_run
from hetpure.runs.records import Record
from hetpure.runs.results import Accuracy, Conditions, Report, Verdict, accuracy, table_rows, write_results
from hetpure.runs.store import RecordStore
from tests import browser
from tests.evaluation.jobs import evaluate

HOSTILE = '"><img src=x onerror="window.owned=1"><script>window.owned=2<'
"""A row's name; in a script it must not end the script, in an attribute not the attribute."""

SUBSET = 8
NAMES = ["undefended", "ours/Linf", "ours/L2", HOSTILE + "/script>"]
RIGHT = {  # clean, attacked: of eight samples
    "undefended": ("11111110", "00000100"),
    "ours/Linf": ("11111111", "11100111"),
    "ours/L2": ("11111111", "11110000"),
    NAMES[3]: ("1111", "1010"),
}


def made(folder: Path, warning: bool = True) -> Path:
    """A run's folder with everything in it, without a run."""
    data = ImageDataModule("digits", subset=SUBSET).prepare()
    folder.mkdir(parents=True)
    config = {
        "seed": 0,
        "output": HOSTILE,
        "purifier": {"name": "none"},
        "ensemble": {"size": 4, "mode": "mean_logits"},
        "protocols": {"resubmissions": 3, "votes": 0},
        "honesty": {"images": 4, "factor": 2},
        "rows": {name: {} for name in NAMES},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "content.yaml").write_text("data: {images: 00ff}\n")
    keep_samples(data, folder)
    lines = []
    for name in NAMES:
        store = RecordStore(folder / name, ["one-shot", "best of 3"])
        fill(store, data, *RIGHT[name], fails=name == "ours/L2")
        lines += table_rows(name, store.read(), SUBSET, store.protocols, Conditions("PGD Linf", "exact", 4, 4))
        panels = {"clean": torch.rand(1, 8, 8), "perturbation": torch.rand(1, 8, 8), "mask": torch.rand(1, 8, 8)}
        keep_pictures([PictureRow(panels, "", index) for index in data.indices[:2]], 5.0, folder / name)
    fill(RecordStore(folder / "ours/Linf/honesty/huge_eps"), data, "1111", "0001")
    verdicts = [Verdict("huge eps", not warning, "1 of 4 images right <b>"), Verdict("loss rises", True, "from 1 to 2")]
    write_results(Report("a title & more", lines, ["a note <i>"], {"ours/Linf": verdicts}), folder)
    return folder


def write_page(folder: Path) -> Path:
    return write_reports(folder).path / "report.html"


def fill(store: RecordStore, data: ImageDataModule, clean: str, attacked: str, fails: bool = False) -> None:
    """Records of samples that came out right (1) or wrong (0); of best of 3, the second submission is always wrong."""
    records, images = [], {}
    for k, index in enumerate(data.indices[: len(clean)]):
        label = int(data.test_source.labels[index])
        wrong = (label + 1) % 10
        of = {side: label if right[k] == "1" else wrong for side, right in (("c", clean), ("a", attacked))}
        images[index] = torch.full((1, 8, 8), k / 16)
        failure = "not finite at attack iteration 1: the loss, NaN" if fails and k == len(clean) - 1 else None
        for protocol in store.protocols:
            n = 3 if protocol == "best of 3" else 1
            sides: dict[str, Any] = {"clean": [], "clean_scores": []}
            for side, predicted in (("clean", [of["c"]] * n), ("adversarial", [of["a"], wrong, of["a"]][:n])):
                scores = [[float(c == p) + c / 100 for c in range(10)] for p in predicted]
                sides |= {} if failure else {side: predicted, f"{side}_scores": scores}
            curves = {"attack_loss": [0.1, 0.5 + k][: 1 + (k < 6)], "attack_correct": [1.0, 0.25][: 1 + (k < 6)]}
            image = store.image_name(data.indices)
            records.append(Record(index, protocol, label, **sides, **curves, seconds=k, image=image, failure=failure))
    store.append(records, images)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made(tmp_path_factory.mktemp("runs") / "a run")
    write_page(folder)
    return folder


class Elements(HTMLParser):
    """All start tags of a page, and its visible text as far as markup goes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


# ---- what is kept for the page


def test_pictures_come_back_as_they_are_shown(tmp_path: Path) -> None:
    panels = {"clean": torch.rand(3, 5, 7), "block a/b": torch.rand(1, 5, 7)}
    keep_pictures([PictureRow(panels, "", 12)], 2.5, tmp_path)
    found = pixels.load_pictures(tmp_path / "pictures.npz")
    assert found.amplification == 2.5 and list(found.panels) == [12] and list(found.panels[12]) == list(panels)
    for name, panel in panels.items():
        shown = torch.from_numpy(found.panels[12][name]).movedim(-1, 0)
        assert (shown / 255 - panel).abs().max() <= 0.5 / 255 + 1e-6, "rounding to 8 bits, no more"


def test_samples_are_kept_small_and_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageDataModule("digits", subset=SUBSET).prepare()
    monkeypatch.setattr(kept, "THUMBNAIL", 4)
    monkeypatch.setattr(kept, "CLEAN_LIMIT", 3 * 4 * 4)
    keep_samples(data, tmp_path)
    found = pixels.load_samples(tmp_path / "samples.npz")
    assert list(found.indices) == data.indices and list(found.classes) == [str(k) for k in range(10)]
    assert list(found.clean) == data.indices[:3] and found.clean[data.indices[0]].shape == (4, 4, 1)
    image = data.test_source.image(data.indices[0]).float().reshape(1, 4, 2, 4, 2).mean((2, 4))
    shown = torch.from_numpy(found.clean[data.indices[0]]).movedim(-1, 0) / 255
    assert (shown - image / data.test_source.scale).abs().max() <= 0.5 / 255 + 1e-6


def test_damaged_files_are_said_and_the_page_goes_without(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run / "samples.npz").write_bytes(b"PK half a file")
    (run / "undefended" / "pictures.npz").write_bytes(b"")
    (run / "results.json").write_text("{")
    for file in (run / "ours" / "Linf" / "adversarial").iterdir():
        file.write_bytes(b"PK")
    text = write_page(run).read_text()
    for said in ("samples.npz cannot be read", "undefended/pictures.npz cannot be read", "results.json is damaged"):
        assert said in text
    assert f"{SUBSET} adversarial images could not be read" in text


# ---- what it says


def test_outcomes_add_up_to_the_robust_accuracy(folder: Path) -> None:
    for method in read_run(folder).methods:
        survived = sum(outcome(record) == "survived" for record in method.one_shot)
        found = accuracy(method.one_shot, "adversarial")
        assert survived == round(found.value * found.count)
    base = Record(0, "one-shot", 1, [1], [])
    replace = dataclasses.replace
    assert outcome(base) == "right" and outcome(replace(base, clean=[2])) == "wrong"
    assert outcome(replace(base, adversarial=[0])) == "broken"
    assert outcome(replace(base, adversarial=[1, 0])) == "broken", "one wrong submission breaks it"
    assert outcome(replace(base, clean=[2], adversarial=[1])) == "survived"
    assert outcome(replace(base, clean=[], failure="NaN")) == "failed"


def test_the_table_is_the_reports(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    results = (folder / "results.md").read_text()
    figures = re.findall(r"\d+\.\d\d \[[^]]+]", results)
    assert len(figures) == 4 * len(NAMES)
    for figure in figures:
        assert f">{figure}<" in text
    assert "a title &amp; more" in text and "a note &lt;i&gt;" in text
    assert text.count('class="point"') >= 4 * len(NAMES)
    run = read_run(folder)
    for row in run.report.rows:
        assert f"left:{100 * row.robust.value:.2f}%" in text


def test_alarms_stand_first(folder: Path, tmp_path: Path) -> None:
    text = (folder / "report.html").read_text()
    for said in ("FAILS ITS HONESTY CHECKS (ours/Linf: huge eps)", "ours/L2: 1 of 8", "This run is not finished"):
        assert 0 < text.index(said) < text.index('id="results"')
    assert "4 of 8 images" in text, "the row of four samples"
    fine = write_page(made(tmp_path / "fine", warning=False)).read_text()
    assert "FAILS" not in fine.split('type="application/json"')[0]


def test_curves_are_the_records(folder: Path) -> None:
    methods = read_run(folder).methods
    (loss,) = loss_charts(methods)
    assert [line.name for line in loss.lines] == NAMES
    # Two samples of eight stopped after one iteration: 0.5 + k over the other six.
    assert loss.lines[0].y == pytest.approx([0.1, 0.5 + sum(range(6)) / 6])
    assert loss.lines[0].high[1] == pytest.approx(0.5 + np.quantile(range(6), 0.9))
    (right,) = correct_charts(methods)
    assert right.lines[1].y == pytest.approx([100.0, 25.0])
    (submissions,) = submissions_charts(methods)
    first, second, third = submissions.lines[1].y
    assert (first, second, third) == (75.0, 0.0, 0.0), "the second submission is wrong"
    assert submissions.lines[1].low[0] < 75.0 < submissions.lines[1].high[0]


def test_many_methods_are_several_charts(folder: Path) -> None:
    method = read_run(folder).methods[0]
    charts = loss_charts([dataclasses.replace(method, name=str(k)) for k in range(14)])
    assert [len(chart.lines) for chart in charts] == [6, 6, 2]


def test_a_table_beside_print_comes_first(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    measured = Accuracy(0.5, 0.25, 0.75, 8)
    lines = [
        TableLine("ours", "AP", {"robust": TableCell(PrintedAccuracy(55.2, 1.5), measured), "standard": TableCell()}),
        TableLine(
            "theirs",
            "AT",
            {"robust": TableCell(PrintedAccuracy(40), None, ("no attack",)), "standard": TableCell()},
            reasons=("no & weights",),
            note="half",
        ),
    ]
    columns = {"robust": "robust <", "standard": "standard"}
    table = PaperTable("Table 1 <", "8 images", columns, frozenset(columns), lines, ["n > 1"], ["other settings"])
    text = page(read_run(run), table)
    assert text.index("Table 1 &lt;") < text.index('id="table"')
    said = [
        "<strong>50.00</strong>",
        "[25.0, 75.0]",
        "published 55.20 ± 1.50",
        "published 40.00",
        "no &amp; weights",
        "n &gt; 1",
    ]
    for part in (*said, "robust &lt;", "no attack", "half", "other settings", "8 images"):
        assert part in text


def test_rows_of_a_table_that_cannot_run_are_no_unfinished_rows(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["rows"]["absent/pgd"] = {}
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert [method.name for method in read_run(run).methods] == NAMES
    (run / "results.json").unlink()  # a run killed before its first table: nobody knows
    assert read_run(run).methods[-1].name == "absent/pgd"


# ---- that it cannot do harm


def test_nothing_that_a_run_names_becomes_markup(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    found = Elements(text)
    assert [attrs.get("type") for tag, attrs in found.tags if tag == "script"] == ["application/json", None]
    assert not [tag for tag, attrs in found.tags if tag == "img" or any(key.startswith("on") for key in attrs)]
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [method["name"] for method in data["methods"]] == NAMES, "as it is, inside the data"


def test_it_asks_for_nothing(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    for tag, attrs in Elements(text).tags:
        for key in ("src", "href", "action", "data", "srcset", "poster"):
            assert (attrs.get(key) or "#").startswith(("#", "data:")), (tag, attrs)
    assert "@import" not in text and not re.search(r"url\((?!data:)", text)
    assert "default-src &#39;none&#39;" in text, "and the browser is told not to let it"


def test_images_up_to_a_limit(folder: Path) -> None:
    run = read_run(folder)
    whole = page(run)
    images = whole.count("data:image/png")
    # Two pictured samples of each row with three panels, eight clean images, the adversarial ones with a file.
    assert images == 4 * 2 * 3 + SUBSET + 3 * SUBSET + 4
    little = page(run, limit=3000)
    kept = little.count("data:image/png")
    assert 0 < kept < images and len(little) < len(whole)
    assert f"{images - kept} small images are left out" in little


def test_long_runs_carry_outcomes_of_all_and_details_of_some(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hetpure.reports.page.samples.DETAILS", 5)
    run = read_run(folder)
    data = browser_data(run, Album(0))
    samples = [sample for method in data["methods"] for sample in method["samples"]]
    assert len(samples) == 3 * SUBSET + 4 and sum("seconds" in sample for sample in samples) == 5
    assert all("one-shot" in sample["protocols"] for sample in samples)
    assert f"scores and loss curves of {len(samples) - 5} samples are left out" in data["notes"]


def test_panels_keep_their_pixels() -> None:
    shown = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4
    for scalar in (False, True):
        with Image.open(io.BytesIO(base64.b64decode(png_uri(shown, scalar).split(",")[1]))) as image:
            assert image.size == (8, 8) and (np.array(image) == shown[..., 0]).all(), "grey values, or viridis' numbers"
            assert image.mode == ("P" if scalar else "L")


# ---- when it is written


def test_what_goes_wrong_with_it_is_said_and_no_more(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = (folder / "report.html").read_bytes()
    monkeypatch.setattr("hetpure.reports.write.write_whole", full)
    monkeypatch.setattr(pixels, "write_whole", full)
    write_reports(folder)
    keep_samples(ImageDataModule("digits", subset=3).prepare(), tmp_path)
    keep_pictures([PictureRow({"clean": torch.rand(1, 8, 8)}, "", 0)], 1.0, tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all("No space left on device; going on without it" in line for line in said)
    assert (folder / "report.html").read_bytes() == before
    monkeypatch.setattr("hetpure.reports.write.page", lambda *_: 1 / 0)
    write_reports(folder)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_command_makes_the_same_page_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip().endswith(str(folder / "report.html"))
    assert (folder / "report.html").read_bytes() == before
    for other in (tmp_path / "none", tmp_path):
        assert main(["report", str(other)]) == 2
        errors = capsys.readouterr().err
        assert "is not an evaluation's folder" in errors and errors.count("\n") == 1
    (folder / "results.json").rename(tmp_path / "results.json")  # a run killed before its first table
    assert main(["report", str(folder)]) == 0
    assert "75.00 [40.9, 92.9]" in (folder / "report.html").read_text(), "counted from the records"
    (tmp_path / "results.json").rename(folder / "results.json")
    write_page(folder)


ROWS = {"bare": {"purifier": {"name": "none"}}, "noise": {"purifier": {"name": "uniform", "t": 0.1, "grid_size": 20}}}
QUICK = (
    "data.subset=4",
    "attack.steps=2",
    "attack.eot=1",
    "ensemble.size=1",
    "pictures=1",
    "protocols.resubmissions=2",
)


def test_an_evaluation_leaves_a_page_also_after_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.evaluate_row

    def interrupted(row: Any, *others: Any, **more: Any) -> None:
        if row.name == "noise":
            raise KeyboardInterrupt
        whole(row, *others, **more)

    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate_row", interrupted)
        assert evaluate(output, ROWS, *QUICK) == 130
    text = (output / "report.html").read_text()
    assert "This run is not finished (noise: 0 of 4 images)" in text and "no results yet" in text

    # The command that the page shows: a saved config is a config, and gives the same again.
    command = re.search(r"hetpure evaluate (--config \S+) (output=\S+)-again<", text)
    assert command is not None

    def typed(*arguments: str) -> int:
        return main(["evaluate", *command[1].split(), *arguments])

    assert typed(command[2]) == 0 and typed(f"output={tmp_path / 'again'}") == 0
    for name in ROWS:
        first, second = (
            RecordStore(place / name, ["one-shot", "best of 2"]).read() for place in (output, tmp_path / "again")
        )
        assert len(first) == 8
        assert [dataclasses.replace(r, seconds=0, chunks={}) for r in first] == [
            dataclasses.replace(r, seconds=0, chunks={}) for r in second
        ]
        assert all(len(record.attack_correct) == 2 for record in first)
    text = (output / "report.html").read_text()
    assert "not finished" not in text.split('type="application/json"')[0]
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    panels = [heading for heading, _ in data["methods"][1]["samples"][0]["panels"]]
    assert panels == ["clean", "adversarial", "perturbation", "uniform noise", "purified"]
    assert sum("adversarial" in sample for sample in data["methods"][1]["samples"]) == 4


@pytest.mark.parametrize("name", ["digits.yaml", "cifar10_bpda.yaml"])
def test_a_saved_config_completes_to_itself(name: str, tmp_path: Path) -> None:
    once = complete(read_config(name, []))
    (tmp_path / "config.yaml").write_text(to_yaml(once))
    assert to_dict(complete(read_config(str(tmp_path / "config.yaml"), []))) == to_dict(once)


# ---- what a person sees


@pytest.fixture(scope="module")
def window() -> Iterator[browser.Browser]:
    if browser.installed() is None:
        pytest.skip(f"no browser is installed: none of {', '.join(browser.NAMES)}")
    with browser.Browser() as window:
        yield window


CARDS = "[...document.querySelectorAll('.sample')]"


def indices(window: browser.Browser) -> list[int]:
    """Numbers of the samples that are seen."""
    return window.run(f"{CARDS}.filter(e => e.checkVisibility()).map(e => Number(e.dataset.index))")


def choose(window: browser.Browser, select: str, text: str) -> None:
    """An option of a list, from the keyboard: the list has focus, and its options answer to their first letters."""
    window.run(f"document.getElementById('{select}').focus()")
    position = window.run(f"[...document.activeElement.options].findIndex(o => o.textContent === {json.dumps(text)})")
    assert position >= 0, text
    window.press("Home", 36)
    for _ in range(position):
        window.press("ArrowDown", 40)
    assert window.run(f"document.getElementById('{select}').selectedOptions[0].textContent") == text


def outcome_button(text: str) -> str:
    return f"[...document.querySelectorAll('#outcomes .choice')].find(e => e.innerText.includes('{text}'))"


def test_a_person_browses_the_samples(folder: Path, window: browser.Browser) -> None:
    subset = ImageDataModule("digits", subset=SUBSET).prepare().indices
    window.open(folder / "report.html")
    seen = window.text("body")
    assert "THIS REPORT FAILS ITS HONESTY CHECKS" in seen and "a title & more" in seen
    assert "✗ FAILED" in window.text("#honesty") and "1 of 4 images right <b>" in window.text("#honesty")
    assert "75.00 [40.9, 92.9]" in window.text("#table") and "attacker's draws still right, %" in window.text("#curves")
    assert indices(window) == subset and window.text("#count") == "8 of 8 images"
    assert window.run("[...document.images].every(i => i.complete && i.naturalWidth === 8)")

    window.click(outcome_button("broken"))
    broken = [subset[k] for k in (0, 1, 2, 3, 4, 6)]
    assert indices(window) == broken and window.text("#count") == "6 of 8 images"
    assert window.run(f"{CARDS}.every(e => e.innerText.includes('✗ broken'))")
    window.press("ArrowLeft", 37)  # the choices are one group of the keyboard's
    assert indices(window) == [subset[5]] and "✓ survived" in window.text(".sample")
    window.click(outcome_button("all"))

    choose(window, "method", "ours/Linf")
    assert "✓ survived 6" in window.text("#outcomes") and "✗ broken 2" in window.text("#outcomes")
    choose(window, "protocol", "best of 3")
    assert "✓ survived 0" in window.text("#outcomes")
    choose(window, "protocol", "one-shot")
    choose(window, "other", "ours/L2")
    assert indices(window) == [subset[k] for k in (3, 5, 6, 7)]
    choose(window, "other", "–")
    label = window.run("document.getElementById('class').options[1].textContent")
    choose(window, "class", label)
    labels = ImageDataModule("digits").prepare().test_source.labels
    assert indices(window) == [index for index in subset if labels[index] == int(label)]
    choose(window, "class", "all classes")

    window.run(f"{CARDS}[3].querySelector('summary').focus()")
    window.press("Enter", 13)
    opened = window.text(".sample[open]")
    for said in ("Attacked, mean logits", "Attacker's loss", "Draws still right", "Under every method"):
        assert said in opened
    assert "ours/Linf · best of 3: 0 of 3 right when attacked" in opened
    assert f'ours/Linf/adversarial/{subset[0]:06d}.npz["{subset[3]}"]' in opened
    assert window.errors == [] and window.requests == []


def test_a_hostile_name_is_a_name(folder: Path, window: browser.Browser) -> None:
    window.open(folder / "report.html")
    choose(window, "method", NAMES[3])
    assert len(indices(window)) == 4 and "✓ survived 2" in window.text("#outcomes")
    assert "failed" not in window.text("#outcomes"), "a choice that no sample has is not offered"
    window.click(f"{CARDS}[0].querySelector('summary')")
    assert NAMES[3] in window.text(".sample[open]") and HOSTILE in window.text("#table")
    assert window.run("window.owned === undefined") and window.run("document.scripts.length") == 2
    assert window.errors == [] and window.requests == []


def test_a_view_has_an_address(folder: Path, window: browser.Browser) -> None:
    window.open(folder / "report.html")
    choose(window, "method", "ours/L2")
    window.click(outcome_button("failed"))
    assert window.text("#count") == "1 of 8 images" and "not finite at attack iteration 1" in window.text(".sample")
    address = window.run("location.hash")
    window.open(folder / "report.html")
    assert window.text("#count") == "8 of 8 images"
    window.open(folder / "report.html", address)
    assert window.text("#count") == "1 of 8 images"


def test_it_fits_a_phone_and_the_night(folder: Path, window: browser.Browser) -> None:
    window.open(folder / "report.html")
    for width in (390, 1280):
        window.resize(width, 844)
        assert window.run("document.documentElement.scrollWidth") == width
    ground = "getComputedStyle(document.body).backgroundColor"
    assert window.run(ground) == "rgb(255, 255, 255)"
    window.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert window.run(ground) == "rgb(20, 23, 27)"
    window.send("Emulation.setEmulatedMedia", features=[])
