import os

import pytest

from hetpure.config import tracking
from hetpure.config.tracking import has_account, quiet_settings, wandb_mode
from hetpure.errors import ConfigError
from hetpure.training.fit import build_logger


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(tracking, "_chosen", {})
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_account(monkeypatch: pytest.MonkeyPatch, tmp_path):
    assert not has_account()
    (tmp_path / "netrc").write_text("machine example.org login user password secret\n")
    assert not has_account()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert has_account()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_account()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert has_account()


def test_modes(monkeypatch: pytest.MonkeyPatch, tmp_path):
    logger = build_logger("hetpure", None, tmp_path)
    assert logger is not None and logger._offline
    assert wandb_mode() == "offline" and build_logger("hetpure", None, tmp_path, "disabled") is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled" and build_logger("hetpure", None, tmp_path) is None
    with pytest.raises(ConfigError, match=r"wandb\.mode is 'loud'; accepted: auto, online"):
        build_logger("hetpure", None, tmp_path, "loud")
    with pytest.raises(ConfigError, match="is 'online', which needs an account"):
        build_logger("hetpure", None, tmp_path, "online")


def test_an_offline_run_keeps_its_files_in_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("WANDB_DATA_DIR", "/the/users")
    quiet_settings("online", tmp_path)
    assert "WANDB_CACHE_DIR" not in os.environ
    for name in ("a", "b"):
        quiet_settings("offline", tmp_path / name)
        assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / name / "wandb")
    assert os.environ["WANDB_DATA_DIR"] == "/the/users"
