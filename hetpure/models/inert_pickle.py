"""NVlabs' network pickles read as data: nothing is imported, and no source or function in them is run.

Such a pickle (``torch_utils/persistence.py`` of https://github.com/NVlabs/edm) rebuilds each network object by calling
``_reconstruct_persistent_obj`` with a mapping that holds the class's name, its attributes and its module's source code,
which the original then executes. Here that name, like every other one that such a file needs, leads to a function of
this module that only keeps the values. Any other name is refused before anything is called.
"""

import collections
import functools
import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from hetpure.models.checkpoints import CheckpointError, one_line, regular_file

_SCALARS = {"f8": np.float64, "f4": np.float32, "i8": np.int64, "i4": np.int32, "b1": np.bool_}


class Inert:
    """An object of a pickle: its class's name and its attributes (``state``), without its methods."""

    class_name = ""

    def __init__(self, *_: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = dict(state) if isinstance(state, Mapping) else {}

    @property
    def children(self) -> dict[str, "Inert"]:
        """Modules inside, by name."""
        modules = self.state.get("_modules") or {}
        return {str(name): child for name, child in modules.items() if isinstance(child, Inert)}

    def tensors(self, prefix: str = "", seen: set[int] | None = None) -> dict[str, Tensor]:
        """Parameters and buffers of this module and those inside, named as in a state dict."""
        seen = set() if seen is None else seen
        if id(self) in seen:  # a module inside itself has no end, and a few that share theirs have billions
            raise CheckpointError(f"holds the same module twice ({prefix[:80]})")
        seen.add(id(self))
        own = {**(self.state.get("_parameters") or {}), **(self.state.get("_buffers") or {})}
        tensors = {f"{prefix}{name}": value for name, value in own.items() if isinstance(value, Tensor)}
        for name, child in self.children.items():
            tensors.update(child.tensors(f"{prefix}{name}.", seen))
        return tensors


def read_inert(path: str | Path) -> Any:
    """What a network pickle holds, with an ``Inert`` for each object.

    Raises:
        CheckpointError: where the file is damaged, or names anything that is not on this module's short list.
    """
    try:
        with regular_file(path).open("rb") as file:
            _check_memo(file)
            return _InertUnpickler(file).load()
    except CheckpointError:
        raise
    except _RefusedError as error:
        raise CheckpointError(
            f"refused, it holds code ({error}); accepted: networks that NVlabs' persistence saved"
        ) from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise CheckpointError(f"cannot be read as a network pickle: {one_line(error, 200)}") from None


def _check_memo(file: BinaryIO) -> None:
    """Refuses numbers of remembered objects beyond the file's size: Python makes a table up to the largest."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name.endswith("PUT") and int(argument or 0) > size:
            raise CheckpointError(f"cannot be read as a network pickle: it numbers an object {argument}")
    file.seek(0)


class _RefusedError(Exception):
    """A name that no network pickle needs."""


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        admitted = _ADMITTED.get((module, name))
        if admitted is None:
            raise _RefusedError(f"{module}.{name}")
        # A pickle can set attributes of what it is given: it gets its own copy of anything that is not built in.
        if admitted in (Inert, _DType):
            return type(name, (admitted,), {"class_name": name})
        return admitted if isinstance(admitted, type) else functools.partial(admitted)

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("a reference outside the file")


def _object(meta: Mapping[str, Any]) -> Inert:
    inert = Inert()
    inert.class_name = str(meta["class_name"])
    inert.__setstate__(meta["state"])
    return inert


def _storage(content: bytes) -> Tensor:
    """The storage that ``torch.save`` wrote into the pickle, as a flat tensor."""
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _RefusedError("or damage in the bytes of a tensor") from None
    if not isinstance(loaded, torch.TypedStorage):
        raise TypeError(f"a tensor's storage is a {type(loaded).__name__}")
    return torch.empty(0, dtype=loaded.dtype).set_(loaded._untyped_storage)  # pyright: ignore[reportArgumentType]


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    # as_strided refuses what reaches beyond the storage. No copy: a few bytes may claim any size (stride 0).
    return storage.as_strided(tuple(size), tuple(stride), offset)


class _DType:
    """A numpy type's code."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass


def _scalar(kind: _DType, content: bytes) -> Any:
    return np.frombuffer(content, dtype=_SCALARS[kind.code])[0].item()


def _bytes(text: str, encoding: str) -> bytes:
    """Bytes as Python 2's pickle protocol writes them."""
    if encoding != "latin1":
        raise ValueError(f"bytes are encoded as {encoding!r}")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _object,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("dnnlib.util", "EasyDict"): dict,
    ("_codecs", "encode"): _bytes,
    ("numpy", "dtype"): _DType,
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(builtins, "set"): set for builtins in ("builtins", "__builtin__")},
    **{("torch.nn.modules.container", name): Inert for name in ("ModuleDict", "ModuleList", "Sequential")},
}
