"""Pillow does not run Ghostscript, regardless of the name of an image."""

import os

import mmcv.transforms
import numpy as np
import pytest
from mmengine.dataset import Compose
from PIL import EpsImagePlugin, Image, PngImagePlugin

from mmpelk.apis.images import read_image
from mmpelk.engine.command_line import run_tool
from mmpelk.engine.pipeline import NamingPipeline
from mmpelk.utils.errors import InputError
from mmpelk.utils.pillow import FORMATS

GHOSTSCRIPT = EpsImagePlugin.Ghostscript  # tests that run the tools in this process replace it
PIPELINE = [dict(type='LoadImageFromFile', imdecode_backend='pillow')]


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """Install a program in place of Ghostscript that writes a file when it is run."""
    program = tmp_path / 'bin/gs'
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{program.parent}:{os.environ["PATH"]}')
    monkeypatch.setattr(EpsImagePlugin, 'gs_binary', None)
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', GHOSTSCRIPT)
    return tmp_path / 'ran'


@pytest.fixture
def hostile(tmp_path):
    """Return an EPS image with the name of a PNG file."""
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.eps')
    return str((tmp_path / 'a.eps').rename(tmp_path / 'a.png'))


def test_the_program_runs_without_this_protection(ghostscript, hostile):
    with pytest.raises(Exception), Image.open(hostile) as image:  # noqa: B017  the type depends on Pillow's version
        image.load()
    assert ghostscript.exists()


def test_images_are_read_without_ghostscript(ghostscript, hostile):
    with pytest.raises(InputError, match='cannot read image .*a.png: its content is none of BMP, .*; convert it to PNG'):
        read_image(hostile)
    assert not ghostscript.exists()


def test_training_reads_images_without_ghostscript(ghostscript, hostile):
    with pytest.raises(InputError, match='cannot read .*a.png: it is an EPS image'):
        NamingPipeline(Compose(PIPELINE))(dict(img_path=hostile))
    assert not ghostscript.exists()


def test_tools_never_run_ghostscript(ghostscript, hostile, safe_io, capsys):
    def main():
        mmcv.imread(hostile, backend='pillow')

    with pytest.raises(OSError, match='it is an EPS image'):
        run_tool(main)
    assert not ghostscript.exists()


@pytest.mark.parametrize('format', FORMATS)
def test_the_content_decides_the_format(tmp_path, format):
    image = np.full((16, 16, 3), 200, np.uint8)
    Image.fromarray(image).save(tmp_path / 'a.png', format=format)
    assert np.abs(read_image(tmp_path / 'a.png').astype(int) - image).max() <= 8


def test_what_pillow_would_clip_or_refuse_is_named(tmp_path):
    Image.fromarray(np.full((8, 8), 9000, np.uint16)).save(tmp_path / 'deep.png')
    with pytest.raises(InputError, match=r'image .*deep.png has more than 8 bits per pixel \(mode I;16\); convert it to 8 bits'):
        read_image(tmp_path / 'deep.png')
    about = PngImagePlugin.PngInfo()
    about.add_text('bomb', 'x' * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    Image.new('RGB', (8, 8)).save(tmp_path / 'bomb.png', pnginfo=about)
    with pytest.raises(InputError, match='cannot read image .*bomb.png: Decompressed data too large'):
        read_image(tmp_path / 'bomb.png')
    Image.new('RGB', (8, 9)).save(tmp_path / 'large.png')
    with pytest.raises(InputError, match='large.png has 8x9 pixels; scale it down to at most 71 pixels'):
        read_image(tmp_path / 'large.png', 71)
