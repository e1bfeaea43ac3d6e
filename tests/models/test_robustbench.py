import importlib
from pathlib import Path

import pytest
import torch

from hetpure.errors import ConfigError
from hetpure.models.classifiers import build_classifier
from hetpure.models.robustbench import zoo_entry

ENTRY = "hetpure.models.robustbench:zoo_entry"


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    def absent(name: str):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"^model: Standard needs .*pip install 'hetpure\[robustbench\]'"):
        zoo_entry("Standard")


def test_an_entry_is_the_network_that_this_project_loads_itself(tmp_path: Path):
    pytest.importorskip("geotorch", reason="needs the extra robustbench")
    with pytest.raises(ConfigError, match=r"^model is 'x'; accepted: "):
        zoo_entry("x")  # imports the package
    zoo = importlib.import_module("robustbench.model_zoo").model_dicts
    datasets = {d.value: d for d in zoo}
    threats = {t.value: t for t in zoo[datasets["cifar10"]]}
    torch.manual_seed(0)
    reference = zoo[datasets["cifar10"]][threats["Linf"]]["Standard"]["model"]()
    file = tmp_path / "cifar10" / "Linf" / "Standard.pt"
    file.parent.mkdir(parents=True)
    torch.save({"state_dict": reference.state_dict()}, file)
    arguments = {"model": "Standard", "model_dir": str(tmp_path)}
    entry = build_classifier(ENTRY, arguments=arguments)
    own = build_classifier("wrn28_10", str(file), arguments={"num_classes": 10})
    x = torch.rand(2, 3, 32, 32)
    expected = entry(x)
    assert float((own(x) - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "Nobody2020"}, r"classifier.arguments.model is 'Nobody2020'; accepted: .*Standard"),
        ({"dataset": "mnist"}, r"classifier.arguments.dataset is 'mnist'; accepted: cifar10"),
        ({"threat_model": "L1"}, r"classifier.arguments.threat_model is 'L1'; accepted: "),
    ],
)
def test_unknown_entries(change: dict, message: str):
    pytest.importorskip("geotorch", reason="needs the extra robustbench")
    with pytest.raises(ConfigError, match=message):
        build_classifier(ENTRY, arguments={"model": "Standard", **change})
