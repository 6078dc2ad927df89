"""What the web page does with clicks and images that a browser would not send."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mmpelk.analysis.demo_page import Page, build_page


@pytest.fixture
def page():
    page = Page(SimpleNamespace(), pixels=100)
    page.show_field = lambda image, at: (image, at)
    return page


IMAGE = np.zeros((4, 8, 3), np.uint8)


def test_a_click_is_a_fraction_of_the_image(page):
    assert page.show_click((IMAGE, (40, 80)), [20, 30]) == (IMAGE, (30.5 / 40, 20.5 / 80))
    assert page.show_click(None, [1, 1]) == (None, 'Drop an image.')


@pytest.mark.parametrize(
    'index', [None, 3, 'ab', [1], [1, 2, 3], ['a', 1], [None, 1], [float('nan'), 1], [float('inf'), 1], {}, [[1], 2]]
)
def test_other_clicks_are_errors(page, index):
    picture, line = page.show_click((IMAGE, (40, 80)), index)
    assert picture is None and line.startswith('error: a click must be a column and a row, got')


@pytest.mark.parametrize('index', [[80, 1], [1, 40], [-1, 1], [10**9, 10**9]])
def test_clicks_beside_the_image_are_errors(page, index):
    assert page.show_click((IMAGE, (40, 80)), index) == (
        None,
        f'error: the click at ({index[0]}, {index[1]}) is not on the image of 80x40',
    )


def test_images_have_as_many_pixels_as_the_memory_allows(page, tmp_path):
    Image.new('RGB', (11, 10)).save(tmp_path / 'a.png')
    *others, line = page.show_prediction(str(tmp_path / 'a.png'))
    assert others == [None] * 4 and line == 'error: image a.png has 11x10 pixels; scale it down to at most 100 pixels'


def test_the_browser_sends_no_image_and_files_are_deleted(page):
    pytest.importorskip('gradio')
    blocks = build_page(page, 'title')
    assert blocks.delete_cache == (3600, 3600)
    kinds = [type(component).__name__ for function in blocks.fns.values() for component in function.inputs]
    assert sorted(kinds) == ['File', 'State']
