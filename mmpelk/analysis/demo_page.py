"""A web page that draws the prediction for an image, and the effective receptive field at a click. It runs offline."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.infer import BaseInferencer

from mmpelk.apis import predict
from mmpelk.apis.drawing import DRAWN_SIZE, draw
from mmpelk.apis.images import read_image
from mmpelk.apis.models import normalization
from mmpelk.utils.errors import InputError

from .receptive_field import area_ratios, contribution_map, heat_map_on_image, load_images, without_pooling

try:
    import gradio as gr
except ImportError:
    gr = None
# Range of the image size for the receptive field. The backward pass keeps every activation, and all strides must fit.
MIN_FIELD, MAX_FIELD = 64, 384
EMPTY = 'Drop an image.'
# Uploads, pictures, and session state are deleted after this many seconds.
KEPT_SECONDS = 3600


class Page:
    """The functions of the page.

    Args:
        inferencer: Inferencer from :func:`mmpelk.apis.init_model`.
        pixels: Maximum number of pixels of an image.
    """

    def __init__(self, inferencer: BaseInferencer, pixels: int) -> None:
        self.inferencer = inferencer
        self.pixels = pixels
        # Each request runs in a thread, but OpenMMLab's scopes and visualizers are shared.
        self.lock = threading.Lock()

    def show_prediction(self, path: str | None) -> tuple:
        """Draw the prediction for an image file.

        Returns:
            The image, (H, W, 3) uint8 RGB, with the height and width at which it is shown; the image and the prediction, both magnified;
            None for the receptive field; and a line of text.
        """
        if path is None:
            return None, None, None, None, EMPTY
        try:
            image = read_image(path, self.pixels)
            with self.lock:
                sample = predict(self.inferencer, image)
                picture = draw(self.inferencer.model, self.inferencer.cfg, image, sample)
        except InputError as error:
            return None, None, None, None, f'error: {str(error).replace(path, Path(path).name)}'
        shown = cv2.resize(image, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        line = f'{image.shape[1]}x{image.shape[0]}. Click on the image to draw the receptive field there.'
        return (mmcv.bgr2rgb(image), picture.shape[:2]), mmcv.bgr2rgb(shown), mmcv.bgr2rgb(picture), None, line

    def show_click(self, state: tuple | None, index: object) -> tuple[np.ndarray | None, str]:
        """Draw the receptive field at a click.

        Args:
            state: The first result of :meth:`show_prediction`, which stays on the server.
            index: The column and row of the shown image, as the browser sent them.

        Returns:
            See :meth:`show_field`.
        """
        if state is None:
            return None, EMPTY
        image, (height, width) = state
        try:
            column, row = (int(value) for value in index)
        except (TypeError, ValueError, OverflowError):
            return None, f'error: a click must be a column and a row, got {str(index)[:60]!r}'
        if not (0 <= column < width and 0 <= row < height):
            return None, f'error: the click at ({column}, {row}) is not on the image of {width}x{height}'
        return self.show_field(image, ((row + 0.5) / height, (column + 0.5) / width))

    def show_field(self, image: np.ndarray, at: tuple[float, float]) -> tuple[np.ndarray, str]:
        """Draw how much each pixel contributes to the last feature map at a position.

        Args:
            image: (H, W, 3) uint8 RGB.
            at: (y, x), as fractions of height and width.

        Returns:
            The heat map over the image, and a line of text.
        """
        model = self.inferencer.model
        size = min(max(*image.shape[:2], MIN_FIELD), MAX_FIELD)
        with self.lock, torch.enable_grad():
            mean, std = (values.flatten().tolist() for values in normalization(model))
            (square,) = load_images([image], size, mean, std)
            square = square.to(next(model.parameters()).device)
            contribution = contribution_map(without_pooling(model.backbone), [square], at)
        half = area_ratios(contribution, (0.5,), at)[0.5]
        column, row = (int(share * length) for share, length in zip(at[::-1], image.shape[1::-1], strict=True))
        line = f'Half of the contribution to ({column}, {row}) comes from a square around it with {half:.1%} of the image area.'
        return heat_map_on_image(contribution, image, at, DRAWN_SIZE), line


def build_page(page: Page, title: str) -> gr.Blocks:
    """Build the page with gradio."""

    # The image comes from the server's own state. An image that the browser sent could exceed the maximum number of pixels.
    def clicked(state: tuple | None, event: gr.EventData) -> tuple[np.ndarray | None, str]:
        return page.show_click(state, (getattr(event, '_data', None) or {}).get('index'))

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as blocks:
        gr.Markdown(f'## {title}')
        file = gr.File(label='Drop an image', type='filepath', height=120, elem_id='upload')
        line = gr.Markdown(EMPTY, elem_id='line')
        state = gr.State(time_to_live=KEPT_SECONDS)
        with gr.Row():
            shown = gr.Image(label='Image: click on it', format='png', interactive=False, elem_id='image', buttons=[])
            picture = gr.Image(label='Prediction', format='png', interactive=False, elem_id='prediction', buttons=['download'])
            field = gr.Image(
                label='Effective receptive field', format='png', interactive=False, elem_id='field', buttons=['download']
            )
        file.change(page.show_prediction, file, [state, shown, picture, field, line])
        shown.select(clicked, state, [field, line])
    return blocks


def check_gradio() -> None:
    """Raise InputError unless gradio is installed."""
    if gr is None:
        raise InputError("the page needs gradio: pip install 'mmpelk[app]'")


def serve(page: Page, title: str, host: str, port: int) -> None:
    """Serve the page until the process ends.

    Raises:
        InputError: If the server cannot listen on the address.
    """
    os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')
    theme = gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace'])  # web fonts need a connection
    try:
        build_page(page, title).launch(
            server_name=host, server_port=port, share=False, theme=theme, footer_links=[], max_file_size='64mb'
        )
    except OSError as error:
        raise InputError(f'cannot listen on {host}:{port}: {error}') from error
