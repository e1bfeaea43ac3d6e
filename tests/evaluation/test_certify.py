"""Certified accuracy end to end: on the digits with the networks that ship, and where certificates are known."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

from hetpure.cli import main
from hetpure.config import read_config
from hetpure.data import ImageDataModule
from hetpure.defense.batch import ATTACKED, AttackedImages
from hetpure.defense.certify import Certifier, predicted_classes
from hetpure.defense.classifier import PurifiedClassifier
from hetpure.errors import ConfigError
from hetpure.evaluation.build import build_rows, made_under
from hetpure.evaluation.config import complete
from hetpure.models.classifiers import Classifier
from hetpure.noise import Draws, certify_draws, defense_draws
from hetpure.purification.base import Purifier
from hetpure.runs.read import read_run
from hetpure.runs.records import Record, parse_line, to_line
from hetpure.runs.store import RecordStore
from tests.runs.schemas import check_folder

ROW = "denoised_smoothing"


class PlainNoise(Purifier):
    """x + sigma eps, and no denoiser."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    @property
    def smoothing_sigma(self) -> float:
        return self.sigma

    def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
        return x + self.sigma * draws.normal_like(x, "diffuse", 0)


def linear_defense(sigma: float, chunk_size: int = 256) -> tuple[PurifiedClassifier, Tensor]:
    """sign(w x + b) on 3 x 3 images as two classes, and w."""
    head = nn.Linear(9, 2)
    with torch.no_grad():
        w = torch.linspace(-1.0, 1.0, 9)
        head.weight.copy_(torch.stack([-w, w]) / 2)
        head.bias.copy_(torch.tensor([0.05, -0.05]))
    classifier = Classifier(nn.Sequential(nn.Flatten(), head), [0.0], [1.0])
    defense = PurifiedClassifier(classifier, PlainNoise(sigma), 2, chunk_size=chunk_size)
    return defense.eval().requires_grad_(False), w


def margins(x: Tensor, w: Tensor) -> Tensor:
    """Signed distance of images from the decision boundary."""
    return ((x.double().flatten(1) @ w.double()) - 0.1) / w.double().norm()


def test_a_linear_classifiers_exact_radius_is_approached_and_not_exceeded() -> None:
    """|w x + b| / |w|, behind plain noise: alpha 0.01, 40 images, n 200 and 4000; more than 5 too large: p < 1e-5."""
    defense, w = linear_defense(sigma=0.25)
    x = torch.rand(40, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    exact, shortfall = margins(x, w), []
    for n in (200, 4000):
        found = Certifier(50, n, 0.01).certified(defense, {"image": x, "index": torch.arange(40)}).certificates
        radii = torch.tensor([found[i].radius for i in range(40)])
        assert (radii > exact.abs()).sum() <= binom.ppf(1 - 1e-5, 40, 0.01)
        assert all(found[i].label in (None, int(exact[i] > 0)) for i in range(40))
        clear = (exact.abs() > 0.1) & (exact.abs() < 0.4)  # so far away, n draws rarely all agree
        assert clear.sum() > 10
        shortfall.append(float((exact.abs() - radii)[clear].mean()))
        votes = torch.tensor([found[i].votes / n for i in range(40)])
        expected = torch.from_numpy(norm.cdf(exact.abs().numpy() / 0.25))
        assert float((votes - expected)[clear].abs().max()) < 5 * (0.25 / n) ** 0.5
    assert shortfall[0] > 3 * shortfall[1] > 0.0 and shortfall[1] < 0.02


def test_certificates_depend_on_no_other_image_and_draw_their_own_noise() -> None:
    defense, _ = linear_defense(sigma=0.25, chunk_size=16)
    x, certifier = torch.rand(3, 1, 3, 3, generator=torch.Generator().manual_seed(1)), Certifier(10, 50, 0.05)
    together = certifier.certified(defense, {"image": x, "index": torch.tensor([7, 3, 5])}).certificates
    for i, index in enumerate((7, 3, 5)):
        alone = certifier.certified(defense, {"image": x[i : i + 1], "index": torch.tensor([index])}).certificates
        assert alone == {index: together[index]}
    sample = torch.tensor([7])
    own, other = certify_draws(0, sample, 60), defense_draws(0, sample, 60)
    assert not torch.equal(own.normal("diffuse", 0, (9,)), other.normal("diffuse", 0, (9,)))
    classes = predicted_classes(defense, x[:1], own)
    assert together[7].votes == (classes[10:] == classes[:10].mode().values).sum()


def test_an_attack_that_breaks_a_certificate_is_noticed_and_one_beyond_it_is_not_looked_at() -> None:
    """No attack can break a right one, so this defense is no smoothing: it also looks at the image without noise."""
    defense, w = linear_defense(sigma=0.25)
    x = torch.full((2, 1, 3, 3), 0.5) + 0.15 * w.view(1, 1, 3, 3)
    to_boundary = -margins(x, w).view(-1, 1, 1, 1) * (w / w.norm()).view(1, 1, 3, 3)
    for factor, seen in ((0.7, True), (1.2, False)):
        attacked = AttackedImages((x + factor * to_boundary.float()), [], {}, 1)
        batch = {"image": x, "index": torch.arange(2), ATTACKED: attacked}
        for found in Certifier(50, 4000, 0.001).certified(defense, batch).certificates.values():
            assert found.distance == pytest.approx(factor * float(margins(x, w)[0]), rel=1e-5)
            assert found.covers_attack == seen == (found.attacked_votes is not None)
            assert not found.is_broken(4000, 0.001)

    class Peeking(PlainNoise):
        def purify(self, x: Tensor, draws: Draws, *prepared: Tensor) -> Tensor:
            return torch.where((x == 0.5).all(), x, 1 - x).expand_as(x)

    broken = PurifiedClassifier(defense.classifier, Peeking(0.25), 2, chunk_size=8)
    x = torch.full((1, 1, 3, 3), 0.5)
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] = 0.8
    batch = {"image": x, "index": torch.tensor([0]), ATTACKED: AttackedImages(x_adv, [], {}, 1)}
    found = Certifier(10, 100, 0.001).certified(broken, batch).certificates[0]
    assert found.covers_attack and found.is_broken(100, 0.001)


def test_what_is_not_finite_has_a_failure_and_no_certificate() -> None:
    defense, _ = linear_defense(sigma=0.25, chunk_size=8)
    x = torch.rand(2, 1, 3, 3)
    x[0, 0, 1, 1] = torch.nan
    found = Certifier(5, 20, 0.05).certified(defense, {"image": x, "index": torch.tensor([4, 6])})
    assert found.failures == {4: "not finite in the certificate: the image, NaN"} and list(found.certificates) == [6]


# ---- end to end


def settings(output: Path, *more: str) -> list[str]:
    return [
        "rows=null", "purifier={name: denoised_smoothing, sigma: 0.1}", "attack={name: pgd, norm: L2, eps: 0.1}",
        "attack.step_size=0.05", "attack.steps=1", "attack.eot=2", "data.subset=2", "chunk_size=16", "pictures=0",
        "threads=1", "wandb.mode=disabled", "certify={n0: 10, n: 50, alpha: 0.01, radii: [0.05, 0.1]}",
        "ensemble.mode=vote", f"output={output}", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "certified"
    assert main(["evaluate", "--config", "digits.yaml", *settings(output)]) == 0
    return output


def test_certificates_stand_in_records_and_table(run: Path) -> None:
    assert check_folder(run) == 2
    read = read_run(run)
    records = read.methods[0].records
    assert not read.problems and len(records) == 2
    certificates = [record.certificate for record in records]
    assert all(each is not None and 0.0 < (each.distance or 0.0) <= 0.05 + 1e-6 for each in certificates)
    assert all(record.chunks == {"attack": 16, "defense": 16, "certificate": 16} for record in records)
    (row,) = read.report.rows
    assert list(row.certified) == ["0.05", "0.1"]
    for radius, share in row.certified.items():
        right = [
            c.label == r.label and c.radius >= float(radius) for c, r in zip(certificates, records, strict=True) if c
        ]
        assert share.value == sum(right) / 2 and share.count == 2
    assert row.certified["0.05"].value > 0
    table = (run / "results.md").read_text()
    assert "certified at 0.05, %" in table and "certificates abstain" in table and "certificates: ok" in table
    assert "certified_0.1_low" in (run / "results.csv").read_text()


def test_a_resumed_run_and_another_batch_size_give_the_same_records(run: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "again"
    assert main(["evaluate", "--config", "digits.yaml", *settings(output, "data.batch_size=1")]) == 0
    whole = [record.outcome() for record in RecordStore(run / ROW).read()]
    assert [record.outcome() for record in RecordStore(output / ROW).read()] == whole
    file = next((output / ROW).glob("samples-*.jsonl"))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1]["certificate"]["votes"] -= 1
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["evaluate", "--config", "digits.yaml", *settings(output, "certify.radii=[0.07]")]) == 0
    assert "votes do not give" in capsys.readouterr().err
    assert sorted(map(str, (r.outcome() for r in RecordStore(output / ROW).read()))) == sorted(map(str, whole))
    assert list(read_run(output).report.rows[0].certified) == ["0.07"], "radii may change: nothing else depends on them"


@pytest.mark.slow
def test_verify_certifies_again_and_notices_another_certificate(run: Path, tmp_path: Path, capsys) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    assert main(["verify", str(copy), "--samples=0"]) == 0
    assert "2 certificates, the same" in capsys.readouterr().out
    file = next((copy / ROW).glob("samples-*.jsonl"))
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    first["certificate"] |= {"radius": 0.2, "votes": 40}
    file.write_text("".join(json.dumps(line) + "\n" for line in (first, second)))
    assert main(["verify", str(copy), "--samples=0"]) == 4
    assert "recorded class" in capsys.readouterr().out


def test_other_draws_are_another_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--config", "digits.yaml", *settings(run, "certify.n=60")]) == 2
    assert "certify.n was 50, is 60" in capsys.readouterr().err


def test_it_is_refused_where_nothing_can_be_certified() -> None:
    raw = {**read_config("digits.yaml", []), "output": "unused"}
    with pytest.raises(
        ConfigError, match=r"^certify: needs a row .* smoothing_sigma; found none, uniform, heterogeneous$"
    ):
        complete({**raw, "certify": {}})
    smooth = {**raw, "rows": {"a": {}, "b": {"purifier": {"name": "denoised_smoothing"}}}}
    for certify, key in (
        ({"n": 0}, "certify.n"), ({"n0": 0}, "certify.n0"), ({"alpha": 1.0}, "certify.alpha"),
        ({"radii": []}, "certify.radii"), ({"radii": [0.1, -1]}, "certify.radii"), ({"zz": 1}, "certify.zz"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"^{key}"):
            complete({**smooth, "certify": certify})
    assert complete({**smooth, "certify": {}}).certify is not None


def test_rows_without_certificates_keep_their_settings_hash(tmp_path: Path) -> None:
    """Beside a row that is certified, and in a run without ``certify``, a hash is what it was before there was one."""
    raw = read_config("digits.yaml", [])
    raw |= {"output": str(tmp_path), "threads": 1, "chunk_size": 16}
    raw["rows"] = {"undefended": {"purifier": {"name": "none"}}, "smooth": {"purifier": {"name": ROW, "sigma": 0.1}}}
    data = ImageDataModule("digits", subset=2).prepare()
    plain, certified = (
        made_under(build_rows(config := complete({**raw, "certify": certify}), data), config)
        for certify in (None, {"n": 50})
    )
    assert plain["undefended"] == certified["undefended"] and plain["smooth"] != certified["smooth"]
    assert all("certify" not in row.settings for row in build_rows(complete(raw), data))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"radius": 0.0}, "class and radius"), ({"label": None}, "class and radius"), ({"votes": -1}, "certificate"),
        ({"distance": 0.9}, "attacked_votes"), ({"attacked_votes": None}, "attacked_votes"), ({"zz": 1}, "certificate"),
        ({"radius": "far"}, "has certificate"),
    ],
)  # fmt: skip
def test_damaged_certificates_are_no_records(change: dict, problem: str) -> None:
    certificate = {"label": 1, "radius": 0.5, "votes": 90, "distance": 0.1, "attacked_votes": 80}
    line = dataclasses.asdict(Record(7, "one-shot", 1, [1], [[0.1, 0.9]])) | {"certificate": certificate}
    del line["trials"], line["left_after"]  # absent where there is none
    record = parse_line(json.dumps(line).encode())
    assert json.loads(to_line(record)) == line
    with pytest.raises(ValueError, match=problem):
        parse_line(json.dumps({**line, "certificate": {**certificate, **change}}).encode())
