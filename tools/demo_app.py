"""Serve a web page that draws the prediction for an image, and the effective receptive field at a click. It runs offline."""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.infer import BaseInferencer

from mmpelk.analysis.receptive_field import area_ratios, contribution_map, heat_map_on_image, load_images, without_pooling
from mmpelk.apis import init_model, predict
from mmpelk.apis.images import DRAWN_SIZE, draw, read_image
from mmpelk.apis.models import normalization
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError

os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')
try:
    import gradio as gr
except ImportError:
    gr = None
# Range of the image size for the receptive field. The backward pass keeps every activation, and all strides must fit.
MIN_FIELD, MAX_FIELD = 64, 384
EMPTY = 'Drop an image.'


class Page:
    """The functions of the page.

    Args:
        inferencer: Inferencer from :func:`mmpelk.apis.init_model`.
    """

    def __init__(self, inferencer: BaseInferencer) -> None:
        self.inferencer = inferencer
        # Each request runs in a thread, but OpenMMLab's scopes and visualizers are shared.
        self.lock = threading.Lock()

    def show_prediction(self, path: str | None) -> tuple[np.ndarray | None, ...]:
        """Draw the prediction for an image file.

        Returns:
            The image, (H, W, 3) uint8 RGB; the image and the prediction, both magnified; None for the receptive field; a line of text.
        """
        if path is None:
            return None, None, None, None, EMPTY
        try:
            image = read_image(path)
            with self.lock:
                sample = predict(self.inferencer, image)
                picture = draw(self.inferencer.model, self.inferencer.cfg, image, sample)
        except InputError as error:
            return None, None, None, None, f'error: {str(error).replace(path, Path(path).name)}'
        shown = cv2.resize(image, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        line = f'{image.shape[1]}x{image.shape[0]}. Click on the image to draw the receptive field there.'
        return (*map(mmcv.bgr2rgb, (image, shown, picture)), None, line)

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

    def clicked(original: np.ndarray | None, shown: np.ndarray | None, event: gr.SelectData) -> tuple[np.ndarray | None, str]:
        if original is None or shown is None:
            return None, EMPTY
        column, row = event.index
        return page.show_field(original, ((row + 0.5) / shown.shape[0], (column + 0.5) / shown.shape[1]))

    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f'## {title}')
        file = gr.File(label='Drop an image', type='filepath', height=120, elem_id='upload')
        line = gr.Markdown(EMPTY, elem_id='line')
        original = gr.State()
        with gr.Row():
            shown = gr.Image(label='Image: click on it', format='png', interactive=False, elem_id='image', buttons=[])
            picture = gr.Image(label='Prediction', format='png', interactive=False, elem_id='prediction', buttons=['download'])
            field = gr.Image(
                label='Effective receptive field', format='png', interactive=False, elem_id='field', buttons=['download']
            )
        file.change(page.show_prediction, file, [original, shown, picture, field, line])
        shown.select(clicked, [original, shown], [field, line])
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--host', default='127.0.0.1', help='address to listen on; default: %(default)s, which only this machine can reach'
    )
    parser.add_argument('--port', type=int, default=7860, help='default: %(default)s')
    parser.add_argument('--device', help='such as cpu or cuda:0; default: the GPU if there is one')
    add_cfg_options(parser)
    args = parser.parse_args()
    if not 0 < args.port < 2**16:
        raise InputError(f'--port must lie between 1 and 65535, got {args.port}')
    if gr is None:
        raise InputError("the page needs gradio: pip install 'mmpelk[app]'")
    page = Page(init_model(read_config(args.config, args.cfg_options), args.checkpoint, args.device))
    theme = gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace'])  # web fonts need a connection
    try:
        build_page(page, f'mmpelk: {args.config}').launch(
            server_name=args.host, server_port=args.port, share=False, theme=theme, footer_links=[], max_file_size='64mb'
        )
    except OSError as error:
        raise InputError(f'cannot listen on {args.host}:{args.port}: {error}') from error


if __name__ == '__main__':
    run_tool(main)
