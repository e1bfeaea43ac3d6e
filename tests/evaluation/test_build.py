"""What rows are refused when they are built."""

import pytest

from hetpure.config import read_config
from hetpure.data import ImageDataModule
from hetpure.errors import ConfigError
from hetpure.evaluation.build import build_rows
from hetpure.evaluation.config import complete
from tests.purification.networks import network_settings


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"compile": True}])
def test_a_purifiers_own_network_runs_as_it_is(change: dict) -> None:
    purifier = {"name": "ebm", "network": network_settings("ToyEnergy"), "langevin_steps": 1}
    raw = read_config("digits.yaml", ["rows=null", "data.subset=1"]) | {"purifier": purifier}
    data = ImageDataModule("digits", subset=1).prepare()
    assert build_rows(complete(raw), data)
    with pytest.raises(ConfigError, match=r"(precision|compile) is .*the ebm purifier runs its own network as it is"):
        build_rows(complete(raw | change), data)


def test_a_line_of_a_table_is_a_section_of_known_keys() -> None:
    raw = read_config("digits.yaml", [])
    assert complete(raw | {"table": {"lines": {"a": {}}}})
    for line, said in ((3, "accepted: a section of keys"), ({"labl": "x"}, "did you mean label")):
        with pytest.raises(ConfigError, match=rf"table\.lines\.a.*{said}"):
            complete(raw | {"table": {"lines": {"a": line}}})
