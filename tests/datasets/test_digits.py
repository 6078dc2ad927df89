from collections import Counter

import cv2
import numpy as np
import pytest
from test_digit_scenes import digest

from mmpelk.datasets import make_digits
from mmpelk.datasets.digit_scenes import split_digits


def few_digits(seed):
    """Return the first 50 training digits and the first 200 validation digits."""
    (images, labels), (val_images, val_labels) = split_digits(seed)
    return [(images[:50], labels[:50]), (val_images[:200], val_labels[:200])]


@pytest.fixture(scope='module', autouse=True)
def only_few_digits():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmpelk.datasets.digits.split_digits', few_digits)
        yield


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    return make_digits(tmp_path_factory.mktemp('digits') / 'data', size=32, copies=2)


def test_layout(digits):
    """Each training digit is in two images, and each validation digit in one, in the folder of its class."""
    (_, training), (_, validation) = few_digits(seed=0)
    for split, labels, copies in (('train', training, 2), ('val', validation, 1)):
        images = list((digits / split).glob('*/*.jpg'))
        assert Counter(int(path.parent.name) for path in images) == {k: copies * n for k, n in Counter(labels.tolist()).items()}
        assert {cv2.imread(str(path)).shape for path in images[:20]} == {(32, 32, 3)}
    assert {path.name for path in digits.iterdir()} == {'train', 'val', 'README.txt', 'made_with.json'}
    assert 'CC BY' in (digits / 'README.txt').read_text()


def test_images_show_their_digit(digits):
    """The mean image of each class is most similar to the mean digit of that class."""
    images, labels = few_digits(seed=0)[1]
    originals = np.stack([cv2.resize(images[labels == label].mean(0), (32, 32)).ravel() for label in range(10)])
    folders = [digits / f'val/{label}' for label in range(10)]
    drawn = np.stack([np.mean([cv2.imread(str(path), 0).ravel() for path in folder.iterdir()], 0) for folder in folders])
    similarity = np.corrcoef(originals - originals.mean(0), drawn - drawn.mean(0))[:10, 10:]
    assert similarity.argmax(0).tolist() == list(range(10))


def test_same_seed_same_images(digits, tmp_path):
    again, other = (make_digits(tmp_path / str(seed), size=32, copies=2, seed=seed) for seed in (0, 1))
    assert digest(again) == digest(digits) != digest(other)
    before = digest(digits)
    assert make_digits(digits, size=32, copies=2) == digits and digest(digits) == before
    with pytest.raises(FileExistsError, match='exists but was not made with'):
        make_digits(digits, size=32, copies=1)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(size=31), 'size must be between 32 and 256 pixels, got 31'),
        (dict(size=257), 'size must be between 32 and 256 pixels, got 257'),
        (dict(copies=0), 'copies must be at least 1, got 0'),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_digits(tmp_path / 'digits', **options)
    assert not (tmp_path / 'digits').exists()
