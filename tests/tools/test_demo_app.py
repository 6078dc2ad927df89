"""The web page in a headless Chromium: upload, overlay, receptive field, and the error for a text file named .jpg."""

import os
import shutil
import subprocess
import sys
import time

import pytest
from conftest import CONFIGS, TOOLS, free_port, save_untrained, tool_env

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-component-update']
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine')


@pytest.fixture
def page_address(digit_scenes, tmp_path):
    """Return the address at which tools/demo_app.py serves a small untrained model."""
    config = CONFIGS / 'demo/upernet_pelk_atto_digits.py'
    save_untrained(config, tmp_path / 'model.pth')
    port = free_port()
    command = [sys.executable, str(TOOLS / 'demo_app.py'), str(config), str(tmp_path / 'model.pth'), '--port', str(port)]
    with open(tmp_path / 'log', 'wb') as log:
        app = subprocess.Popen(command, stdout=log, stderr=log, env=tool_env(), cwd=tmp_path)
    try:
        for _ in range(240):
            assert app.poll() is None, (tmp_path / 'log').read_text()
            if 'Running on local URL' in (tmp_path / 'log').read_text():
                break
            time.sleep(0.5)
        yield f'http://127.0.0.1:{port}'
    finally:
        app.kill()
        app.wait()


def test_page(page_address, digit_scenes, tmp_path):
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    scene = sorted((digit_scenes / 'data/digit_scenes/images/validation').iterdir())[0]
    (tmp_path / 'text.jpg').write_text('no image')
    os.environ['NO_PROXY'] = '127.0.0.1'
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport=dict(width=1280, height=800))
        page.set_default_timeout(60_000)
        requested = []
        page.on('request', lambda request: requested.append(request.url))
        page.goto(page_address)
        upload = page.locator('#upload input[type=file]')
        upload.wait_for(state='attached')
        upload.set_input_files(scene)
        page.locator('#prediction img').wait_for()
        picture = page.locator('#image img')
        picture.wait_for()
        size = picture.evaluate('image => [image.naturalWidth, image.naturalHeight]')
        assert size == [512, 512]  # 128 pixels are magnified
        box = picture.bounding_box()
        picture.click(position=dict(x=0.25 * box['width'], y=0.5 * box['height']))
        page.locator('#field img').wait_for()
        assert 'Half of the contribution to (32, 64)' in page.locator('#line').inner_text()
        page.locator('#upload button').last.click()
        upload.wait_for(state='attached')
        page.locator('#prediction img').wait_for(state='detached')
        upload.set_input_files(tmp_path / 'text.jpg')
        page.wait_for_function("document.querySelector('#line').innerText.startsWith('error: cannot read image text.jpg')")
        assert page.locator('#prediction img').count() == 0
        browser.close()
    assert all(url.startswith((page_address, 'data:', 'blob:')) for url in requested)
