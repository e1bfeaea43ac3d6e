import pytest
import torch

from hetpure.defense.classifier import PurifiedClassifier
from hetpure.defense.memory import in_smaller_chunks, is_out_of_memory
from hetpure.errors import RunError
from hetpure.purification.uniform import UniformPurifier
from tests.toys import ToyDenoiser, tiny_classifier


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried ..."),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error: BaseException, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it


def test_chunks_are_halved_until_they_fit() -> None:
    process = PurifiedClassifier(tiny_classifier(), UniformPurifier(ToyDenoiser(), 0.1, 10), 10, chunk_size=12)
    tried, notes = [], []

    def compute() -> int:
        tried.append(process.chunk_size)
        if process.chunk_size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 7

    assert in_smaller_chunks(compute, [process], notes.append) == 7
    assert tried == [12, 6, 3] and process.chunk_size == 3
    assert "chunks of 6 instead of 12 rows" in notes[0] and len(notes) == 2


def test_memory_for_not_even_one_row_is_the_end() -> None:
    process = PurifiedClassifier(tiny_classifier(), UniformPurifier(ToyDenoiser(), 0.1, 10), 10, chunk_size=2)

    def compute() -> None:
        raise MemoryError

    with pytest.raises(RunError, match="out of memory with one row"):
        in_smaller_chunks(compute, [process], lambda text: None)


def test_other_errors_pass() -> None:
    def compute() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_smaller_chunks(compute, [], lambda text: None)


def test_without_a_process_to_halve_the_error_passes() -> None:
    def compute() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        in_smaller_chunks(compute, [])
