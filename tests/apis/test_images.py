"""How image files and folders are found and read."""

import cv2
import numpy as np
import pytest
from PIL import Image

from mmpelk.apis.images import find_sources, read_image
from mmpelk.utils.errors import InputError


def test_exif_data_turns_an_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row of pixels is the right column of the picture
    Image.fromarray(pixels).save(tmp_path / 'turned.png', exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / 'turned.png'), np.rot90(pixels, -1)[..., ::-1])


def test_sources(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    for name in ('b.png', 'a.JPG'):
        cv2.imwrite(str(tmp_path / name), pixels)
    (tmp_path / 'text.txt').write_text('no image')
    sources = find_sources([tmp_path / 'b.png', pixels, tmp_path, find_sources(pixels)[0]])
    assert [source.picture_name for source in sources] == ['b.png', '000001.png', 'a.png', 'b.png', '000000.png']
    assert not any(source.is_video for source in sources) and sources[2].frames == [tmp_path / 'a.JPG']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='empty has no images'):
        find_sources(tmp_path / 'empty')
