"""The figures' numbers, from a small run on the embedded digits; and the seam and distance measures by hand."""

import copy
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import stats

from hetpure.cli import main
from hetpure.config import read_config
from hetpure.config.moved import with_moved
from hetpure.errors import ConfigError
from hetpure.noise import defense_draws
from hetpure.purification.base import to_unit
from hetpure.reports.plots import style
from hetpure.reports.plots.accuracy import accuracy_line
from hetpure.reports.plots.intervals import geometric_interval, mean_interval
from hetpure.runs.results import Accuracy
from hetpure.studies import cost, finished, joint
from hetpure.studies.ablation import Ablation
from hetpure.studies.cost import Cost, gradient_cost
from hetpure.studies.features import Features, feature_distance
from hetpure.studies.figure import Measured, file_stem
from hetpure.studies.finished import FinishedRun
from hetpure.studies.harmony import Harmony, seam_ratio
from hetpure.studies.joint import Joint
from hetpure.studies.masks import Masks
from hetpure.studies.registry import FIGURES, NUMBERS, describe_figure, find_figure, load_figure
from hetpure.studies.tradeoff import Tradeoff, frontier
from hetpure.studies.trajectories import Trajectories, trajectory
from tests.evaluation.jobs import evaluate

COARSE = {"grid_size": 10, "t_small": 0.05}  # 200 -> 100 -> 0: two network calls
ROWS = {
    "undefended": {"purifier": {"name": "none"}},
    "uniform": {"purifier": {"name": "uniform", "t": 0.2, "grid_size": 10}},
    "heterogeneous": {"purifier": COARSE},
    "tau=0.5": {"purifier": {**COARSE, "tau": 0.5}},
    "clean": {"purifier": {"name": "uniform", "t": 0.1, "grid_size": 10}, "attack": {"name": "none"}},
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
    (row,) = run.images(["heterogeneous"])
    assert row.index.tolist() == run.data.indices and row.clean.shape == (6, 1, 8, 8)
    adversarial = row.sides()["adversarial"]
    assert 0 < (adversarial - row.clean).abs().max() <= 0.15 + 1e-6
    purified = row.purifications(adversarial, 2)
    with torch.no_grad():
        scores = row.model.classifier(purified.flatten(0, 1)).view(6, 2, -1).mean(1)
    (method,) = (method for method in run.saved.methods if method.name == row.name)
    records = {record.index: record for record in method.store.read()}
    recorded = torch.tensor([records[i].adversarial_scores[0] for i in row.index.tolist()])
    torch.testing.assert_close(scores, recorded, rtol=1e-4, atol=1e-4)  # another chunk size of the classifier


def test_networks_run_in_the_runs_precision(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("precision: float32", "precision: tf32"))
    allowed: list[str] = []
    monkeypatch.setattr(finished, "allow_tf32", allowed.append)
    FinishedRun(copy).build(["uniform"])
    assert allowed == ["tf32"]


def test_a_seam_is_the_borders_contrast_over_its_neighbourhoods() -> None:
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 4:] = 1
    ramp = (torch.arange(8) / 10).expand(1, 1, 8, 8)
    step = ramp + 0.3 * mask[:1]
    ratios = seam_ratio(torch.cat([ramp, step]), mask)
    # Beside the border horizontal pairs differ by 0.1, vertical ones by nothing. Near it are columns 2..5: in each of
    # 8 lines two horizontal pairs that do not cross, in each of 4 columns seven vertical ones.
    along = 16 * 0.1 / (16 + 28)
    grey = 1 / 255
    expected = torch.tensor([(0.1 + grey) / (along + grey), (0.4 + grey) / (along + grey)])
    torch.testing.assert_close(ratios, expected, rtol=1e-5, atol=0)
    assert seam_ratio(ramp, torch.ones(1, 1, 8, 8)).isnan().all()


def test_harmony_repaint_of_one_round_is_no_resampling(run: FinishedRun) -> None:
    figure = Harmony(images=6, draws=2, shown=1, U=(1, 3))
    measured = figure.measure(run, [])
    seams = measured.numbers["seams"]
    assert list(seams) == ["none", "single 1", "single 3", "repaint 1", "repaint 3"]
    assert seams["repaint 1"]["of_each"] == seams["none"]["of_each"]
    assert np.array_equal(measured.arrays["repaint 1"], measured.arrays["none"])
    assert seams["repaint 3"]["of_each"] != seams["none"]["of_each"] != seams["single 3"]["of_each"]
    assert seams["single 3"]["seam"] == geometric_interval(seams["single 3"]["of_each"])
    assert f"n = {measured.numbers['n']} clean images" in measured.caption
    figure.draw(measured)


def test_trajectories_follow_the_purifier_from_image_to_purified(run: FinishedRun) -> None:
    (row,) = run.images(["heterogeneous"])
    timesteps, path = trajectory(row, row.clean, 2, 2)
    assert timesteps == [203, 100]  # the first is noised on by U = 3
    assert path.shape == (2, 4, 1, 8, 8)
    assert torch.equal(path[:, 0], row.clean[2:3].expand(2, -1, -1, -1))
    torch.testing.assert_close(path[:, -1], row.purifications(row.clean, 2)[2], rtol=0, atol=1e-5)
    (plain,) = run.images(["uniform"])
    _, path = trajectory(plain, plain.clean, 0, 1)
    # What the first call takes the image for, by eq. (1) and the network.
    purifier: Any = plain.model.purifier
    x = 2 * plain.clean[:1] - 1
    x_t = purifier.schedule.diffuse(x, 200, defense_draws(0, plain.index[:1], 1).normal_like(x, "diffuse", 200))
    with torch.no_grad():
        x0 = to_unit(purifier.schedule.predict_x0(x_t, 200, purifier.denoiser(x_t, 200)))
    torch.testing.assert_close(path[:, 1], x0, rtol=0, atol=1e-5)
    assert not purifier.denoiser._forward_hooks


def test_trajectories_lay_out_each_image_among_its_classes(run: FinishedRun) -> None:
    figure = Trajectories(images=1, draws=2, background=12)
    measured = figure.measure(run, ["uniform", "heterogeneous"])
    (layout,) = measured.numbers["layouts"]
    label = layout["label"]
    assert label not in layout["seen_as"] and next(iter(layout["background"])) == label
    assert all(len(points) == 12 for points in layout["background"].values())
    assert np.array(layout["trajectories"]["heterogeneous"]["adversarial"]).shape == (2, 4, 2)
    assert len(layout["ends"]["uniform"]["natural"]) == 2
    assert "n = 1 image (2 draws each)" in measured.caption
    figure.draw(measured)


def test_masks_say_what_they_cover(run: FinishedRun) -> None:
    figure = Masks(images=2, first=1)
    measured = figure.measure(run, [])
    assert list(measured.arrays) == [
        "original", "adversarial", "attention map", "mask", "heterogeneous noise", "purified"
    ]  # fmt: skip
    (row,) = run.images(["heterogeneous"])
    (mask,) = row.model.prepare(row.sides()["adversarial"])
    assert measured.numbers["masked_share"] == pytest.approx(mask[1:3].mean(dim=(1, 2, 3)).tolist())
    assert np.array_equal(measured.arrays["mask"], 255 * mask[1:3].byte().numpy())
    assert measured.numbers["label"] == [str(int(k)) for k in row.label[1:3]]
    assert "n = 2 of 6 images, the first after 1, not selected" in measured.caption
    figure.draw(measured)
    with pytest.raises(ConfigError, match="images is 6; accepted: 1 to 5"):
        Masks(images=6, first=1).measure(run, [])


def test_joint_counts_every_pair_of_values(run: FinishedRun) -> None:
    original, purified = torch.tensor([[0.0, 0.3], [0.3, 1.0]]), torch.tensor([[0.9, 0.3], [0.6, 1.0]])
    compared = joint.compare_values(original.view(2, 1, 1, 2), purified.view(2, 1, 1, 1, 2), 2)
    assert compared["counts"] == [[1, 2], [0, 1]]
    figure = Joint(draws=2, bins=8)
    measured = figure.measure(run, ["undefended", "heterogeneous"])
    panels = measured.numbers["panels"]
    assert np.sum(panels["heterogeneous"]["adversarial"]["counts"]) == 6 * 2 * 64
    nothing = panels["undefended"]["natural"]
    assert nothing["rmse"] == [0.0, 0.0, 0.0] and nothing["correlation"] == pytest.approx(1)
    assert np.array(nothing["counts"]).trace() == 6 * 64
    (row,) = run.images(["undefended"])
    rmse = 255 * (row.sides()["adversarial"] - row.clean).square().mean(dim=(1, 2, 3)).sqrt()
    assert panels["undefended"]["adversarial"]["rmse"][0] == pytest.approx(float(rmse.mean()), rel=1e-5)
    assert "n = 6 images of 1x8x8 values" in measured.caption
    figure.draw(measured)


def test_ablation_reads_the_rows_that_differ_in_one_key(run: FinishedRun, folder: Path) -> None:
    measured = Ablation().measure(run, [])
    (panel,) = measured.numbers["panels"]
    assert panel["keys"] == ["purifier.tau"]
    table = {row["method"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}
    assert [(p["row"], p["values"]) for p in panel["points"]] == [("heterogeneous", [0.9]), ("tau=0.5", [0.5])]
    assert all(p["robust"] == table[p["row"]]["robust"] for p in panel["points"])
    assert "n = 6 images at each point, the same at all" in measured.caption
    (axes,) = [axes for part in Ablation().draw(measured).subfigs for axes in _axes(part)]
    lines = [container.lines[0] for container in axes.containers]  # pyright: ignore
    assert [line.get_ydata()[-1] for line in lines] == [
        100 * table["heterogeneous"][side]["value"] for side in ("standard", "robust")
    ]


@pytest.mark.parametrize(
    ("removed", "caption"),
    [
        ({"tau=0.5": [0]}, "n = 5 to 6 images at each point, not the same at all"),
        ({"tau=0.5": [0], "heterogeneous": [1]}, "n = 5 images at each point, not the same at all"),
        ({"tau=0.5": [2], "heterogeneous": [2]}, "n = 5 images at each point, the same at all"),
    ],
)
def test_ablation_says_whether_all_points_have_the_same_images(
    folder: Path, tmp_path: Path, removed: dict[str, list[int]], caption: str
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    for row, positions in removed.items():
        (file,) = (copy / row).glob("samples-*.jsonl")
        lines = sorted(file.read_text().splitlines(keepends=True))
        file.write_text("".join(line for i, line in enumerate(lines) if i not in positions))
    assert caption in Ablation().measure(FinishedRun(copy), []).caption


def test_ablation_maps_pairs_and_hatches_what_is_missing() -> None:
    def cell(right: int) -> dict:
        return {"value": right / 10, "low": 0.0, "high": 1.0, "count": 10} if right else {**nothing}

    nothing = {"value": None, "low": None, "high": None, "count": 0}
    points = [
        {"row": f"{a} {b}", "values": [a, b], "standard": cell(k), "robust": cell(k), "attack": "PGD"}
        for k, (a, b) in enumerate([(0.3, 0.1), (0.2, 0.1), (0.3, 0.05)])
    ]
    keys = ["purifier.t_large", "purifier.t_small"]
    figure = Ablation().draw(Measured({"panels": [{"keys": keys, "points": points}]}, "n = 10"))
    robust = [axes for part in figure.subfigs for axes in _axes(part)][1]
    shades = robust.images[0].get_array()
    assert np.ma.filled(shades, -1).tolist() == [[-1, 20], [10, -1]]  # t_small upwards, t_large to the right
    assert [patch.get_hatch() for patch in robust.patches] == ["///", "///"]
    assert [text.get_text() for text in robust.get_xticklabels()] == ["0.2", "0.3"]


def test_cost_measures_a_gradient_and_shows_ratios(run: FinishedRun) -> None:
    # In this process: 8x8 networks need too little memory to see, and what a child does is the same function.
    settings = run.rows["heterogeneous"]

    def measured(**changes: Any) -> dict[str, float]:
        changed = {**settings, "purifier": {**settings["purifier"], **changes}}
        return gradient_cost(changed, np.zeros((1, 8, 8), np.float32), 10, False, 2, 1, "cpu")

    many, one = measured(resampling="repaint", U=5), measured(resampling="single", U=5)
    assert (many["calls"], one["calls"]) == (6, 3)
    assert 0 < many["fastest"] <= many["seconds"] <= many["slowest"]
    costs = [
        {"resampling": kind, "recompute": again, "U": U, **many, "memory_mb": U * (kind == "repaint") + 1.0}
        for kind in ("single", "repaint")
        for again in (False, True)
        for U in (1, 3)
    ]
    figure = Cost().draw(Measured({"costs": costs, "U": [1, 3]}, "n = 1"))
    memory = [axes for part in figure.subfigs for axes in part.axes][1]
    legend = memory.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "multi-step, graph kept: x2", "multi-step, recomputed: x2", "single step, graph kept: x1",
        "single step, recomputed: x1",
    ]  # fmt: skip


def test_cost_measures_networks_in_the_runs_precision(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[str, Any]] = []
    for name in ("prepared_denoiser", "prepared_classifier"):
        monkeypatch.setattr(cost, name, lambda network, *how, name=name: used.append((name, how)) or network)
    monkeypatch.setattr(cost, "allow_tf32", lambda precision: used.append(("allow_tf32", precision)))
    settings = {**run.rows["heterogeneous"], "precision": "tf32", "compile": True}
    gradient_cost(settings, np.zeros((1, 8, 8), np.float32), 10, False, 1, 1, "cpu")
    how = ("tf32", True)
    assert used == [("allow_tf32", "tf32"), ("prepared_classifier", how), ("prepared_denoiser", how)]


def test_features_distances_are_relative_and_paired(run: FinishedRun) -> None:
    f0, f = [torch.tensor([[3.0, 4.0], [0.0, 2.0]])], [torch.tensor([[3.0, 5.0], [2.0, 2.0]])]
    torch.testing.assert_close(feature_distance(f, f0), torch.tensor([[0.2], [1.0]]))
    figure = Features(draws=2)
    measured = figure.measure(run, ["undefended", "heterogeneous"])
    distances = measured.numbers["distances"]
    assert len(measured.numbers["spaces"]) == len(distances["heterogeneous"]["natural"])
    assert measured.numbers["spaces"][-1] == "logits"
    assert all(ends == [0.0, 0.0, 0.0] for ends in distances["undefended"]["natural"])
    (row,) = run.images(["undefended"])
    with torch.no_grad():
        clean, attacked = (row.model.classifier(x) for x in row.sides().values())
    each = ((attacked - clean).norm(dim=1) / clean.norm(dim=1)).numpy()
    assert distances["undefended"]["adversarial"][-1][0] == pytest.approx(each.mean(), rel=1e-4)
    assert "n = 6 images (2 draws" in measured.caption
    figure.draw(measured)


def test_intervals() -> None:
    x = [0.1, 0.4, 0.2, 0.9]
    low, high = stats.t.interval(0.95, 3, np.mean(x), stats.sem(x))
    assert mean_interval(x) == pytest.approx([np.mean(x), low, high])
    assert geometric_interval([2.0, 8.0])[0] == pytest.approx(4.0)
    with pytest.raises(ConfigError, match="2 or more"):
        mean_interval([1.0])


def test_the_frontier_is_what_none_dominates() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 4.0), (4.0, 1.0), (4.0, 1.0), (0.0, 5.0)]
    assert frontier(points) == [0, 3, 4, 5]
    assert frontier([(1.0, 1.0)]) == [0]


def test_tradeoff_has_a_point_for_each_row_with_both_accuracies(run: FinishedRun) -> None:
    measured = Tradeoff().measure(run, [])
    points = {point["row"]: point for point in measured.numbers["points"]}
    names = {"heterogeneous": "heterogeneous", "tau=0.5": "heterogeneous", "undefended": "none", "uniform": "uniform"}
    assert {name: point["line"] for name, point in points.items()} == names
    results = {row.method: row for method in run.saved.methods for row in method.rows}
    for name, point in points.items():
        assert point["standard"]["value"] == results[name].standard.value
        assert point["robust"]["value"] == results[name].robust.value
    assert "n = 6 images, the same at all points, one-shot" in measured.caption
    parts = Tradeoff().draw(measured).subfigs[0].subfigs  # pyright: ignore[reportAttributeAccessIssue]
    (axes,), panels = parts[0].axes, [axes for axes in parts[1].axes if axes.get_visible()]
    legend = axes.get_legend_handles_labels()[1]
    assert legend == list(dict.fromkeys(names.values()))
    assert [panel.get_title() for panel in panels] == list(dict.fromkeys(names.values()))
    by_tau = Tradeoff(lines=["purifier.name", "purifier.tau"]).measure(run, ["heterogeneous", "tau=0.5"])
    assert [point["line"] for point in by_tau.numbers["points"]] == ["heterogeneous, 0.9", "heterogeneous, 0.5"]
    with pytest.raises(ConfigError, match=r"lines is 'purifier\.tua'; accepted: a key of these rows"):
        Tradeoff(lines=["purifier.tua"]).measure(run, [])
    some = Tradeoff(lines=["purifier.name", "purifier.tau"]).measure(run, [])
    assert "uniform" in {point["line"] for point in some.numbers["points"]}, "rows without a key lack its value"
    with pytest.raises(ConfigError, match="protocol is 'best of 9'; accepted: one-shot"):
        Tradeoff(protocol="best of 9").measure(run, [])
    with pytest.raises(ConfigError, match="has no row with both accuracies"):
        Tradeoff().measure(run, ["clean"])


def test_tradeoff_compares_one_norm(run: FinishedRun) -> None:
    other = copy.copy(run)
    of_l2 = [
        dataclasses.replace(
            method,
            rows=[
                dataclasses.replace(row, conditions=dataclasses.replace(row.conditions, norm="L2"))
                for row in method.rows
            ],
        )
        if method.name == "uniform"
        else method
        for method in run.saved.methods
    ]
    other.saved = dataclasses.replace(run.saved, methods=of_l2)
    with pytest.raises(ConfigError, match=r"--row: the rows are attacked in Linf \(\w+\), L2 \(uniform\)"):
        Tradeoff().measure(other, [])
    assert len(Tradeoff().measure(other, ["uniform"]).numbers["points"]) == 1


def test_the_command_draws_and_draws_again_without_computing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["figures", "joint", str(folder), "--row", "uniform", "--out", str(tmp_path), "bins=8"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert output.startswith("Figure 6 of the paper, joint: Joint distribution")
    assert "n = 6 images" in output.replace("\n", " ")
    stem = "joint-uniform-bins8"
    assert {file.name for file in tmp_path.iterdir()} == {f"{stem}.{kind}" for kind in ("png", "pdf", "json")}
    with Image.open(tmp_path / f"{stem}.png") as picture:
        assert picture.width > 600 and np.asarray(picture.convert("L")).std() > 5
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Joint, "measure", refuse)
    assert main(command) == 0
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    with pytest.raises(AssertionError, match="computed again"):
        main([*command[:-1], "bins=9"])


def test_help_says_what_the_classes_say() -> None:
    assert [NUMBERS.get(name) for name in FIGURES] == ["3", "4", "5", "6", "7", "8", "9", None]
    for name, target in FIGURES.items():
        figure_class = load_figure(target)
        assert find_figure(NUMBERS.get(name, name)) == find_figure(name) == (name, target)
        about, options = describe_figure(target)
        assert (figure_class.__doc__ or "").startswith(about)
        assert options == [field.name for field in dataclasses.fields(figure_class)]  # pyright: ignore


def test_a_figure_from_elsewhere(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_figures.py").write_text(OWN_FIGURE)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    assert main(["figures", "my_figures:Counts", str(folder), "scale=3", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("Counts: n = 6 images")
    assert json.loads((out / "Counts-scale3.json").read_text())["numbers"] == {"count": 18}
    assert main(["figures", "my_figures:Nothing", str(folder)]) == 2
    assert capsys.readouterr().err.startswith("error: FIGURE is 'my_figures:Nothing', which cannot be imported")
    sys.modules.pop("my_figures")


OWN_FIGURE = """
from dataclasses import dataclass

from hetpure.reports.plots import style
from hetpure.studies.figure import Measured, RunFigure


@dataclass
class Counts(RunFigure):
    scale: int = 1

    def measure(self, run, rows):
        count = len(run.images(run.select(rows))[0].clean)
        return Measured({"count": self.scale * count}, f"n = {count} images")

    def draw(self, measured):
        figure, drawing = style.sheet(3, 2, measured.caption)
        drawing.subplots().bar(["images"], [measured.numbers["count"]])
        return figure
"""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["masks", "{tmp}"], "is not an evaluation's folder: it has no config.yaml"),
        (["masks", "{run}", "--row", "none such"], "--row is 'none such'; accepted: a row with a heterogeneous"),
        (["masks", "{run}", "--row", "uniform"], "--row is 'uniform'; accepted: a row with a heterogeneous"),
        (["cost", "{run}", "--row", "uniform", "--row", "clean"], "--row is ['uniform', 'clean']; accepted: one row"),
        (["trajectories", "{run}", "--row", "undefended"], "accepted: a row whose purifier has a denoiser: clean, "),
        (["6", "{run}", "--row", "clean"], "--row is 'clean', which has no attack"),
        (["harmony", "{run}", "U=[900]"], "purifier.U"),
        (["harmony", "{run}", "U=[]"], "U is []; accepted: one length or more"),
        (["trajectories", "{run}", "background=3"], "background is 3; accepted: 10 or more"),
        (["masks", "{run}", "first=6"], "first is 6; accepted: 0 to 5"),
        (["joint", "{run}", "draws=0", "--row", "uniform"], "draws is 0; accepted: 1 or more"),
        (["harmony", "{run}", "length=4"], "length: unknown key; accepted: images, draws, shown, U"),
        (["features", "{run}", "images=1", "--row", "undefended"], "2 or more"),
        (["ablation", "{run}", "keys=[attack.nope]"], "keys is 'attack.nope'; accepted: a key of these rows"),
        (["ablation", "{run}", "protocol=vote"], "protocol is 'vote'; accepted: one-shot"),
        (["6", "{run}", "--device", "nonsense"], "--device is 'nonsense', which cannot be used"),
        (["6", "{run}", "denoiser.path=nowhere/at/all"], "nowhere/at/all"),
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
    run = FinishedRun(copy)
    assert run.select([]) == ["clean", "heterogeneous", "tau=0.5", "undefended"]
    assert run.select([], lambda purifier: purifier["name"] != "none") == ["clean", "heterogeneous", "tau=0.5"]
    assert run.select(["uniform"]) == ["uniform"]


def test_what_has_moved_has_moved_for_rows_with_sections_of_their_own(folder: Path, tmp_path: Path) -> None:
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    same, existing = str(saved["classifier"]["weights"]), str(folder / "config.yaml")
    for name, weights in (("undefended", same), ("uniform", "gone/away.pt"), ("clean", existing)):
        saved["rows"][name]["classifier"] = {**saved["classifier"], "weights": weights}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    rows = FinishedRun(tmp_path, ["classifier.weights=new.pt"]).rows
    weights = {name: row["classifier"]["weights"] for name, row in rows.items()}
    assert weights.pop("clean") == existing and set(weights.values()) == {"new.pt"}
    network = {"purifier": {"name": "menet", "network": {"name": "a.py:A", "weights": "gone.pt", "source": "there"}}}
    moved = with_moved(
        {"purifier": {"name": "none"}, "rows": {"a": network, "b": {}}}, "purifier.network.weights=new.pt"
    )
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
    own = [axes for axes in part.axes if axes.get_label() != "<colorbar>"]
    return list(dict.fromkeys([*own, *(axes for inner in part.subfigs for axes in _axes(inner))]))


def test_code_that_a_folder_names_is_run_only_if_the_user_names_it(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("raise SystemExit('it ran')")
    config = read_config("digits.yaml", ["rows=null", f"classifier.name={tmp_path}/net.py:Net"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"rows": {}}))
    with pytest.raises(ConfigError, match=r"^classifier\.name is .*net\.py:Net', which is code"):
        FinishedRun(tmp_path)
