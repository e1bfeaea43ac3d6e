import pytest

from hetpure.data.sampling import BatchStream
from hetpure.errors import ConfigError


def test_epochs_are_permutations_without_partial_batches():
    batches = list(BatchStream(size=10, batch_size=3, length=7, seed=1))
    assert [len(batch) for batch in batches] == [3] * 7
    first = [index for batch in batches[:3] for _, index in batch]
    second = [index for batch in batches[3:6] for _, index in batch]
    assert len(set(first)) == 9 and len(set(second)) == 9 and first != second
    assert [batch[0][0] for batch in batches] == [0, 0, 0, 1, 1, 1, 2]


def test_stream_entered_anywhere_goes_on_the_same():
    whole = list(BatchStream(size=10, batch_size=3, length=9, seed=1))
    assert list(BatchStream(size=10, batch_size=3, length=9, seed=1, start=lambda: 4)) == whole[4:]


def test_one_epoch_is_the_default():
    assert len(list(BatchStream(size=10, batch_size=3))) == len(BatchStream(size=10, batch_size=3)) == 3


def test_processes_share_an_epoch():
    streams = [list(BatchStream(size=12, batch_size=2, length=3, rank=rank, world=2)) for rank in range(2)]
    seen = [index for stream in streams for batch in stream for _, index in batch]
    assert sorted(seen) == list(range(12))


def test_batch_larger_than_the_data():
    with pytest.raises(ConfigError, match=r"data\.batch_size is 3, .* only 5 training samples"):
        BatchStream(size=5, batch_size=3, length=1, world=2)
