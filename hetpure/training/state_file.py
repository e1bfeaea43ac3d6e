"""The file of a training's state: what ``torch.save`` writes, with a checksum of all its bytes at the end."""

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from hetpure.models.checkpoints import CheckpointError, read_file
from hetpure.runs.files import write_whole

KEYS = (
    "callbacks",
    "global_step",
    "loops",
    "lr_schedulers",
    "optimizer_states",
    "pytorch-lightning_version",
    "state_dict",
)
MARK, DIGEST = b"blake2b ", 64
ARCHIVE_END, END = b"PK\5\6", 22  # an archive's last record; its own last two bytes are the comment's length


class StateFileIO(TorchCheckpointIO):
    """Writes state files for Lightning, and reads them: as data, never as code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)
        # The archive's comment, which begins with its length, is its end. torch and zipfile read the file as before.
        content.seek(-2, os.SEEK_END)
        content.write((len(MARK) + DIGEST).to_bytes(2, "little") + MARK)
        content.write(_digest(content.getbuffer()))
        write_whole(path, content.getvalue(), path.with_suffix(".part"))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_state(Path(path))


def read_state(path: Path) -> dict[str, Any]:
    """A training's state, on the CPU.

    Files of earlier versions have no checksum; in them those of the archive's members are checked.

    Raises:
        CheckpointError: where the file is damaged, or holds something else.
        OSError: if it cannot be read.
    """
    content = path.read_bytes() if path.is_file() else b""
    if content[-END:].startswith(ARCHIVE_END) and content.endswith(b"\0\0"):
        is_whole = _members_are_whole(content)
    else:
        mark, digest = content[-DIGEST - len(MARK) : -DIGEST], content[-DIGEST:]
        is_whole = mark == MARK and digest == _digest(memoryview(content)[:-DIGEST])
    if not is_whole:
        raise CheckpointError("is damaged, or something else")
    state = read_file(path)
    missing = KEYS if not isinstance(state, dict) else [key for key in KEYS if key not in state]
    if missing:
        raise CheckpointError(f"is no training's state (without {', '.join(missing[:2])})")
    return state


def _members_are_whole(archive: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as members:
            return members.testzip() is None
    except Exception:  # a damaged archive raises almost anything
        return False


def _digest(content: memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST // 2).hexdigest().encode()
