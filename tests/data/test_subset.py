import numpy as np
import pytest

from hetpure.data.subset import part_of_draw, subset_indices
from hetpure.errors import ConfigError


def test_subset_is_the_papers_draw():
    expected = np.random.RandomState(0).choice(10_000, 512, replace=False)
    assert subset_indices(10_000, 512, 0) == expected.tolist()
    assert subset_indices(5, None) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [0, 11])
def test_subset_out_of_range(size):
    with pytest.raises(ConfigError, match=r"^subset is \d+.*; accepted: 1\.\.10"):
        subset_indices(10, size)


def test_subsets_that_skip_share_no_sample():
    whole = np.random.RandomState(3).choice(100, 30, replace=False).tolist()
    assert subset_indices(100, 20, 3) + subset_indices(100, 10, 3, skip=20) == whole
    with pytest.raises(
        ConfigError, match=r"^subset is 11, but the test split has only 10 samples after subset_skip of 90"
    ):
        subset_indices(100, 11, 3, skip=90)
    with pytest.raises(ConfigError, match=r"^subset_skip is 5; accepted: 0"):
        subset_indices(100, None, skip=5)


def test_part_of_a_draw_is_the_draws_beginning():
    drawn = subset_indices(100, 20)
    assert part_of_draw(drawn, None) == drawn
    assert part_of_draw(drawn, 5, skip=15) == drawn[15:] == subset_indices(100, 5, skip=15)
    with pytest.raises(ConfigError, match=r"^subset is 21, but the test split has only 20 samples"):
        part_of_draw(drawn, 21)
    with pytest.raises(ConfigError, match=r"^subset_seed is 1; accepted: 0"):
        part_of_draw(drawn, 5, seed=1)
