"""The figures' numbers, from a small run on the embedded digits; and the seam and distance measures by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import stats

from hetpure.cli import main
from hetpure.errors import ConfigError
from hetpure.noise import defense_draws
from hetpure.purification.base import to_unit
from hetpure.reports.plots import style
from hetpure.reports.plots.accuracy import accuracy_line
from hetpure.reports.plots.intervals import geometric_interval, mean_interval
from hetpure.runs.results import Accuracy
from hetpure.studies import ablation, cost, features, harmony, joint, masks, numbers, trajectories
from hetpure.studies.finished import FinishedRun, _moved, purifications
from hetpure.studies.make import file_stem
from tests.evaluation.jobs import evaluate

COARSE = {"steps": 10, "t_small": 0.05}  # 200 -> 100 -> 0: two network calls
ROWS = {
    "undefended": {"purifier": {"name": "none"}},
    "uniform": {"purifier": {"name": "uniform", "t": 0.2, "steps": 10}},
    "heterogeneous": {"purifier": COARSE},
    "tau=0.5": {"purifier": {**COARSE, "tau": 0.5}},
    "clean": {"purifier": {"name": "uniform", "t": 0.1, "steps": 10}, "attack": {"name": "none"}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six digits."""
    output = tmp_path_factory.mktemp("figures") / "run"
    few = ("data.subset=6", "attack.steps=2", "attack.step_size=0.1", "attack.eot=1", "ensemble.size=2", "chunk_size=8")
    assert evaluate(output, ROWS, *few) == 0
    return output


@pytest.fixture(scope="module")
def run(folder: Path) -> FinishedRun:
    return FinishedRun(folder)


def test_images_are_the_runs_own_and_purified_as_it_did(run: FinishedRun) -> None:
    (found,) = run.images(["heterogeneous"])
    assert found.index.tolist() == run.data.indices and found.clean.shape == (6, 1, 8, 8)
    adversarial = found.attacked()
    assert 0 < (adversarial - found.clean).abs().max() <= 0.15 + 1e-6
    purified = purifications(found, adversarial, draws=2)
    with torch.no_grad():
        scores = found.model.classifier(purified.flatten(0, 1)).view(6, 2, -1).mean(1)
    recorded = torch.tensor([record.adversarial_scores[0] for record in found.records])
    torch.testing.assert_close(scores, recorded, rtol=1e-4, atol=1e-4)  # another chunk size of the classifier


def test_a_seam_is_the_borders_contrast_over_its_neighbourhoods() -> None:
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 4:] = 1
    ramp = (torch.arange(8) / 10).expand(1, 1, 8, 8)
    step = ramp + 0.3 * mask[:1]
    found = harmony.seam_ratio(torch.cat([ramp, step]), mask)
    # Beside the border horizontal pairs differ by 0.1, vertical ones by nothing. Near it are columns 2..5: in each of
    # 8 lines two horizontal pairs that do not cross, in each of 4 columns seven vertical ones.
    along = 16 * 0.1 / (16 + 28)
    grey = 1 / 255
    expected = torch.tensor([(0.1 + grey) / (along + grey), (0.4 + grey) / (along + grey)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert harmony.seam_ratio(ramp, torch.ones(1, 1, 8, 8)).isnan().all()


def test_figure_3_repaint_of_one_round_is_no_resampling(run: FinishedRun) -> None:
    measured = harmony.measure(run, [], images=6, draws=2, shown=1, U=(1, 3))
    seams = measured.numbers["seams"]
    assert list(seams) == ["none", "single 1", "single 3", "repaint 1", "repaint 3"]
    assert seams["repaint 1"]["of_each"] == seams["none"]["of_each"]
    assert np.array_equal(measured.arrays["repaint 1"], measured.arrays["none"])
    assert seams["repaint 3"]["of_each"] != seams["none"]["of_each"] != seams["single 3"]["of_each"]
    assert seams["single 3"]["seam"] == geometric_interval(seams["single 3"]["of_each"])
    assert f"n = {measured.numbers['n']} clean images" in measured.caption
    harmony.draw(measured)


def test_figure_4_follows_the_purifier_from_image_to_purified(run: FinishedRun) -> None:
    (found,) = run.images(["heterogeneous"])
    timesteps, way = trajectories.trajectory(found, found.clean[2:3], 2, draws=2)
    assert timesteps == [203, 100]  # the first is noised on by U = 3
    assert way.shape == (2, 4, 1, 8, 8)
    assert torch.equal(way[:, 0], found.clean[2:3].expand(2, -1, -1, -1))
    torch.testing.assert_close(way[:, -1], purifications(found, found.clean, 2)[2], rtol=0, atol=1e-5)
    (plain,) = run.images(["uniform"])
    _, way = trajectories.trajectory(plain, plain.clean[:1], 0, draws=1)
    # What the first call takes the image to be, by eq. (1) and the network.
    purifier: Any = plain.model.purifier
    x = 2 * plain.clean[:1] - 1
    x_t = purifier.schedule.diffuse(x, 200, defense_draws(0, plain.index[:1], 1).normal_like(x, "diffuse", 200))
    with torch.no_grad():
        x0 = to_unit(purifier.schedule.predict_x0(x_t, 200, purifier.denoiser(x_t, 200)))
    torch.testing.assert_close(way[:, 1], x0, rtol=0, atol=1e-5)


def test_figure_4_lays_out_each_image_among_its_classes(run: FinishedRun) -> None:
    measured = trajectories.measure(run, ["uniform", "heterogeneous"], images=1, draws=2, background=12)
    (layout,) = measured.numbers["layouts"]
    label = layout["label"]
    assert label not in layout["seen_as"] and next(iter(layout["background"])) == label
    assert all(len(points) == 12 for points in layout["background"].values())
    assert np.array(layout["trajectories"]["heterogeneous"]["adversarial"]).shape == (2, 4, 2)
    assert len(layout["ends"]["uniform"]["natural"]) == 2
    assert "n = 1 image (2 draws each)" in measured.caption
    trajectories.draw(measured)


def test_figure_5_says_what_the_mask_covers(run: FinishedRun) -> None:
    measured = masks.measure(run, [], images=2, first=1)
    assert list(measured.arrays) == [
        "original", "adversarial", "attention map", "mask", "heterogeneous noise", "purified"
    ]  # fmt: skip
    (found,) = run.images(["heterogeneous"])
    (mask,) = found.model.prepare(found.attacked())
    assert measured.numbers["masked_share"] == pytest.approx(mask[1:3].mean(dim=(1, 2, 3)).tolist())
    assert np.array_equal(measured.arrays["mask"], 255 * mask[1:3].byte().numpy())
    assert measured.numbers["label"] == [str(int(k)) for k in found.label[1:3]]
    assert "n = 2 of 6 images, the 2 after the first 1, not chosen" in measured.caption
    masks.draw(measured)
    with pytest.raises(ConfigError, match="accepted are 1 to 5"):
        masks.measure(run, [], images=6, first=1)


def test_figure_6_counts_every_pair_of_values(run: FinishedRun) -> None:
    original, purified = torch.tensor([0.0, 0.3, 0.3, 1.0]), torch.tensor([0.9, 0.3, 0.6, 1.0])
    counts = joint.joint_histogram(original, purified, 2)
    assert counts.tolist() == [[1, 2], [0, 1]]
    measured = joint.measure(run, ["undefended", "heterogeneous"], draws=2, bins=8)
    panels = measured.numbers["panels"]
    assert np.sum(panels["heterogeneous"]["adversarial"]["counts"]) == 6 * 2 * 64
    nothing = panels["undefended"]["natural"]
    assert nothing["rmse"] == [0.0, 0.0, 0.0] and nothing["correlation"] == pytest.approx(1)
    assert np.array(nothing["counts"]).trace() == 6 * 64
    (found,) = run.images(["undefended"])
    rmse = 255 * (found.attacked() - found.clean).square().mean(dim=(1, 2, 3)).sqrt()
    assert panels["undefended"]["adversarial"]["rmse"][0] == pytest.approx(float(rmse.mean()), rel=1e-5)
    assert "n = 6 images of 1x8x8 values" in measured.caption
    joint.draw(measured)


def test_figure_7_reads_the_rows_that_differ_in_one_key(run: FinishedRun, folder: Path) -> None:
    measured = ablation.measure(run, [])
    (panel,) = measured.numbers["panels"]
    assert panel["keys"] == ["purifier.tau"]
    table = {row["method"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}
    assert [(p["row"], p["values"]) for p in panel["points"]] == [("heterogeneous", [0.9]), ("tau=0.5", [0.5])]
    assert all(p["robust"] == table[p["row"]]["robust"] for p in panel["points"])
    assert "n = 6 images at each point" in measured.caption
    (axes,) = [axes for part in ablation.draw(measured).subfigs for axes in _axes(part)]
    lines = [container.lines[0] for container in axes.containers]  # pyright: ignore
    assert [line.get_ydata()[-1] for line in lines] == [
        100 * table["heterogeneous"][side]["value"] for side in ("standard", "robust")
    ]


def test_figure_7_maps_pairs_and_hatches_what_is_missing() -> None:
    def cell(right: int) -> dict:
        return {"value": right / 10, "low": 0.0, "high": 1.0, "count": 10} if right else {**nothing}

    nothing = {"value": None, "low": None, "high": None, "count": 0}
    points = [
        {"row": f"{a} {b}", "values": [a, b], "standard": cell(k), "robust": cell(k), "attack": "PGD"}
        for k, (a, b) in enumerate([(0.3, 0.1), (0.2, 0.1), (0.3, 0.05)])
    ]
    keys = ["purifier.t_large", "purifier.t_small"]
    figure = ablation.draw(numbers.Measured({"panels": [{"keys": keys, "points": points}]}, "n = 10"))
    robust = [axes for part in figure.subfigs for axes in _axes(part)][1]
    shades = robust.images[0].get_array()
    assert np.ma.filled(shades, -1).tolist() == [[-1, 20], [10, -1]]  # t_small upwards, t_large to the right
    assert [patch.get_hatch() for patch in robust.patches] == ["///", "///"]
    assert [text.get_text() for text in robust.get_xticklabels()] == ["0.2", "0.3"]


def test_figure_8_measures_a_gradient_and_shows_ratios(run: FinishedRun) -> None:
    # In this process: 8x8 networks need too little memory to see, and what a child does is the same function.
    plain = run.rows["heterogeneous"]
    job = {
        "classifier": cost.to_dict(plain.classifier),
        "denoiser": cost.to_dict(plain.denoiser),
        "purifier": {**plain.purifier, "resampling": "repaint", "U": 5},
        "image": torch.zeros(1, 8, 8).tolist(),
        "classes": 10,
        "recompute": False,
        "rounds": 2,
        "threads": 1,
        "device": "cpu",
    }
    many = cost.gradient_cost(job)
    one = cost.gradient_cost({**job, "purifier": {**job["purifier"], "resampling": "single"}})
    assert (many["calls"], one["calls"]) == (6, 3)
    assert 0 < many["fastest"] <= many["seconds"] <= many["slowest"]
    costs = [
        {"resampling": kind, "recompute": again, "U": U, **many, "memory_mb": U * (kind == "repaint") + 1.0}
        for kind in ("single", "repaint")
        for again in (False, True)
        for U in (1, 3)
    ]
    figure = cost.draw(numbers.Measured({"costs": costs, "U": [1, 3]}, "n = 1"))
    memory = [axes for part in figure.subfigs for axes in part.axes][1]
    legend = memory.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "multi-step, graph kept: x2", "multi-step, recomputed: x2", "single step, graph kept: x1",
        "single step, recomputed: x1",
    ]  # fmt: skip


def test_figure_9_distances_are_relative_and_paired(run: FinishedRun) -> None:
    f0, f = [torch.tensor([[3.0, 4.0], [0.0, 2.0]])], [torch.tensor([[3.0, 5.0], [2.0, 2.0]])]
    torch.testing.assert_close(features.feature_distance(f, f0), torch.tensor([[0.2], [1.0]]))
    measured = features.measure(run, ["undefended", "heterogeneous"], draws=2)
    distances = measured.numbers["distances"]
    assert len(measured.numbers["spaces"]) == len(distances["heterogeneous"]["natural"])
    assert measured.numbers["spaces"][-1] == "logits"
    assert all(ends == [0.0, 0.0, 0.0] for ends in distances["undefended"]["natural"])
    (found,) = run.images(["undefended"])
    with torch.no_grad():
        clean, attacked = (found.model.classifier(x) for x in (found.clean, found.attacked()))
    each = ((attacked - clean).norm(dim=1) / clean.norm(dim=1)).numpy()
    assert distances["undefended"]["adversarial"][-1][0] == pytest.approx(each.mean(), rel=1e-4)
    assert "n = 6 images (2 draws" in measured.caption
    features.draw(measured)


def test_intervals() -> None:
    x = [0.1, 0.4, 0.2, 0.9]
    low, high = stats.t.interval(0.95, 3, np.mean(x), stats.sem(x))
    assert mean_interval(x) == pytest.approx([np.mean(x), low, high])
    assert geometric_interval([2.0, 8.0])[0] == pytest.approx(4.0)
    with pytest.raises(ConfigError, match="2 or more"):
        mean_interval([1.0])


def test_the_command_draws_and_draws_again_without_computing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["figures", "joint", str(folder), "--row", "uniform", "--out", str(tmp_path), "bins=8"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("Figure 6 of the paper, joint: Joint distribution")
    assert "n = 6 images" in said.replace("\n", " ")
    stem = "joint-uniform-bins8"
    assert {file.name for file in tmp_path.iterdir()} == {f"{stem}.{kind}" for kind in ("png", "pdf", "json")}
    with Image.open(tmp_path / f"{stem}.png") as picture:
        assert picture.width > 600 and np.asarray(picture.convert("L")).std() > 5
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(joint, "measure", _same_signature(joint.measure, refuse))
    assert main(command) == 0
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    with pytest.raises(AssertionError, match="computed again"):
        main([*command[:-1], "bins=9"])


def _same_signature(function: Any, replacement: Any) -> Any:
    replacement.__signature__ = __import__("inspect").signature(function)
    replacement.__annotations__ = function.__annotations__
    return replacement


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["masks", "{tmp}"], "is not an evaluation's folder: it has no config.yaml"),
        (["masks", "{run}", "--row", "none such"], "--row none such: is no row of"),
        (["masks", "{run}", "--row", "uniform"], "its purifier is uniform, and this figure needs a heterogeneous one"),
        (["trajectories", "{run}", "--row", "undefended"], "its purifier is none, which has no denoiser"),
        (["6", "{run}", "--row", "clean"], "--row clean: has no attack"),
        (["harmony", "{run}", "U=[900]"], "U = 900"),
        (["harmony", "{run}", "length=4"], "length: unknown key; accepted are images, draws, shown, U"),
        (["features", "{run}", "images=1", "--row", "undefended"], "images is 1; accepted: 2 or more"),
        (["ablation", "{run}", "keys=[attack.nope]"], "keys: attack.nope is no key"),
        (["ablation", "{run}", "protocol=vote"], "protocol: found vote"),
        (["6", "{run}", "--device", "nonsense"], "--device nonsense: cannot be used"),
        (["6", "{run}", "denoiser.path=nowhere/at/all"], "denoiser.path: nowhere/at/all"),
    ],
)
def test_one_clear_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, command: list, message: str
) -> None:
    filled = [part.format(run=folder, tmp=tmp_path / "nothing") for part in command]
    assert main(["figures", *filled, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not [file for file in tmp_path.iterdir() if file.is_file()]


def test_by_default_rows_without_records_are_left_out(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "uniform")
    found = FinishedRun(copy)
    assert found.compared([]) == ["clean", "heterogeneous", "tau=0.5", "undefended"]
    assert found.chosen([]) == ["clean", "heterogeneous", "tau=0.5"] and found.chosen(["uniform"]) == ["uniform"]


def test_what_has_moved_has_moved_for_rows_with_sections_of_their_own(folder: Path, tmp_path: Path) -> None:
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    same, here = str(saved["classifier"]["weights"]), str(folder / "config.yaml")
    for name, weights in (("undefended", same), ("uniform", "gone/away.pt"), ("clean", here)):
        saved["rows"][name]["classifier"] = {**saved["classifier"], "weights": weights}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    rows = FinishedRun(tmp_path, ["classifier.weights=new.pt"]).rows
    found = {name: row.classifier.weights for name, row in rows.items()}
    assert found.pop("clean") == here and set(found.values()) == {"new.pt"}
    network = {"purifier": {"name": "menet", "network": {"name": "a.py:A", "weights": "gone.pt", "source": "there"}}}
    moved = _moved({"purifier": {"name": "none"}, "rows": {"a": network, "b": {}}}, "purifier.network.weights=new.pt")
    assert moved["rows"]["a"]["purifier"]["network"] == {"name": "a.py:A", "weights": "new.pt"}
    assert moved["purifier"] == {"name": "none"} and moved["rows"]["b"] == {}


def test_files_are_named_after_what_was_asked() -> None:
    assert file_stem("cost", [], []) == "cost"
    assert file_stem("harmony", ["tau=0.5"], ["U=[1,3]", "images=2"]) == "harmony-tau_0.5-U_1_3-images2"


def test_colours_differ_in_brightness_too() -> None:
    def luminance(colour: str) -> float:
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return float(np.dot(rgb, [0.299, 0.587, 0.114]))

    assert abs(luminance(style.NATURAL) - luminance(style.ADVERSARIAL)) > 0.1
    assert len(set(style.MARKERS)) == len(style.MARKERS) == len(set(style.METHODS))


def test_accuracy_line_puts_words_side_by_side() -> None:
    _, drawing = style.sheet(4, 2, "n = 4")
    axes = drawing.subplots()
    ends = [Accuracy(0.5, 0.2, 0.8, 4), Accuracy(0.75, 0.3, 0.9, 4)]
    accuracy_line(axes, "blocks", ["[1]", "[0, 1]"], ends, ends)
    assert sorted(text.get_text() for text in axes.get_xticklabels()) == ["[0, 1]", "[1]"]


def _axes(part: Any) -> list[Any]:
    """A part's own and its parts' axes, without colour bars."""
    found = [axes for axes in part.axes if axes.get_label() != "<colorbar>"]
    return list(dict.fromkeys([*found, *(axes for inner in part.subfigs for axes in _axes(inner))]))
