"""Hypothesis strategies. Failing examples shrink to small maps, short grids, and few small numbers."""

import numpy as np
from hypothesis import strategies as st

# Half grids of up to 7 cells.
halves = st.lists(st.integers(1, 9), max_size=6).flatmap(
    lambda outer: st.sampled_from([1, 3, 5]).map(lambda center: (*outer, center))
)


def values(min_size=1):
    """Draw numbers to pass to :func:`fill`."""
    return st.lists(st.integers(-999, 999), min_size=min_size, max_size=40)


def fill(numbers, *shape):
    """Fill a float64 array by repeating ``numbers`` / 997, which float32 must round."""
    return np.resize(np.array(numbers) / 997, shape)
