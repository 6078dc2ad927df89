"""Keyed rows: labels, colors, and geometry of the scenes, and the folder."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpelk.datasets import COLOR_PALETTE, COLORS, make_keyed_rows
from mmpelk.datasets.keyed_rows import DISTANCES, GAP, GLYPH, GLYPHS, KEY, _scene


class Drawn(np.random.Generator):
    """Hypothesis draws everything but the noise: places, colors, glyphs, and grays."""

    def __init__(self, draw):
        super().__init__(np.random.PCG64(0))
        self.draw = draw

    def integers(self, low, high=None, size=None, endpoint=False):
        low, high = (0, low) if high is None else (low, high)
        values = [self.draw(st.integers(low, high if endpoint else high - 1)) for _ in range(size or 1)]
        return np.array(values) if size else values[0]

    def uniform(self, low, high):
        return self.draw(st.floats(low, high))


@st.composite
def scenes(draw):
    """A number of rows and a jitter, and an image with its labels."""
    jitter = draw(st.integers(0, 5))
    rows = draw(st.integers(1, 8))
    size = draw(st.integers(max(32, rows * (GLYPH + 2 * jitter + GAP)), 200))
    return rows, jitter, *_scene(Drawn(draw), size, rows, jitter)


@settings(max_examples=25)
@given(scenes())
def test_every_label_is_the_color_of_the_key_of_its_row(scene):
    rows, jitter, image, labels = scene
    size = len(image)
    assert image.shape == (size, size, 3) and labels.shape == (size, size) and labels.max() <= len(COLORS)
    # Keys are the only saturated pixels, because the noise is gray.
    colored = np.ptp(image.astype(int), axis=-1) > 60
    assert not colored[:, KEY:].any() and colored[:, :KEY].sum() == rows * GLYPH * KEY
    starts = np.flatnonzero(np.diff(np.concatenate([[False], colored[:, 0]]).astype(int)) == 1)
    assert len(starts) == rows and not labels[:, : KEY + DISTANCES[0]].any()
    unseen = labels.copy()
    for start in starts:
        key = image[start : start + GLYPH, :KEY].reshape(-1, 3).mean(0)
        color = np.abs(np.array(COLOR_PALETTE) - key).sum(1).argmin() + 1
        band = slice(start - jitter, start + GLYPH + jitter)
        assert set(np.unique(labels[band])) == {0, color}
        unseen[band] = 0
        columns = np.flatnonzero(labels[band].any(0))
        assert columns.min() <= KEY + DISTANCES[1] and columns.max() >= size - 2 * GLYPH - DISTANCES[1]  # up to the right edge
    assert not unseen.any()


def test_glyphs_differ_and_have_thick_strokes():
    assert len({glyph.tobytes() for glyph in GLYPHS}) == len(GLYPHS) == 4
    for glyph in GLYPHS:
        assert glyph.shape == (GLYPH, GLYPH) and glyph.sum() >= 2 * GLYPH


def test_folder(tmp_path):
    root = make_keyed_rows(tmp_path / 'rows', 5, 3, size=64, rows=3)
    for split, count in (('training', 5), ('validation', 3)):
        images, maps = sorted((root / 'images' / split).iterdir()), sorted((root / 'annotations' / split).iterdir())
        assert [path.stem for path in images] == [path.stem for path in maps] == [f'{split}_{i:04d}' for i in range(count)]
        for image, labels in zip(images, maps, strict=True):
            assert cv2.imread(str(image)).shape == (64, 64, 3)
            assert cv2.imread(str(labels), cv2.IMREAD_UNCHANGED).shape == (64, 64)
    assert len(COLORS) == len(set(COLOR_PALETTE)) == 4


def test_the_splits_are_disjoint(tmp_path):
    root = make_keyed_rows(tmp_path / 'rows', 60, 60, size=64, rows=1, jitter=0)  # settings with as little variety as possible
    training, validation = (
        {cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tobytes() for path in (root / 'annotations' / split).iterdir()}
        for split in ('training', 'validation')
    )
    assert not training & validation


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def test_same_arguments_same_scenes(tmp_path):
    options = [dict(seed=1), dict(seed=1), dict(seed=2), dict(seed=1, jitter=3), dict(seed=1, rows=2)]
    first, second, *others = (
        contents(make_keyed_rows(tmp_path / str(i), 2, 1, 64, **{'rows': 3, **option})) for i, option in enumerate(options)
    )
    assert first == second and first not in others
    assert make_keyed_rows(tmp_path / '0', 2, 1, 64, rows=3, seed=1) == tmp_path / '0' and contents(tmp_path / '0') == first


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(num_training=0), 'num_training must be at least 1, got 0'),
        (dict(num_validation=0), 'num_validation must be at least 1, got 0'),
        (dict(rows=0), 'rows must be at least 1, got 0'),
        (dict(jitter=-1), 'jitter must be at least 0, got -1'),
        (dict(seed=-1), 'seed must be at least 0, got -1'),
        (dict(size=16), 'between 32 and 1024 pixels, got 16'),
        (dict(rows=10), '10 rows with a jitter of 2 need 130 pixels, but size is 128; choose fewer rows'),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_keyed_rows(tmp_path / 'rows', **options)
    assert not (tmp_path / 'rows').exists()
