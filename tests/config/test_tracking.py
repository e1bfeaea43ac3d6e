import pytest

from hetpure.config.tracking import has_account, wandb_mode
from hetpure.errors import ConfigError
from hetpure.training.fit import build_logger


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
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
