"""A web page: drop an image, see the prediction, click on it, see the effective receptive field there. Runs offline."""

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

from mmpelk.analysis.receptive_field import area_ratios, contribution_map, heat_map, load_images
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
# Larger images are made smaller for the receptive field, whose backward pass keeps every activation; the least holds all strides.
MIN_FIELD, MAX_FIELD = 64, 384
EMPTY = 'Drop an image.'


class Page:
    """What the page does with a model.

    Args:
        inferencer: From :func:`mmpelk.apis.init_model`.
    """

    def __init__(self, inferencer: BaseInferencer) -> None:
        self.inferencer = inferencer
        # Requests come in threads; OpenMMLab's scopes and visualizers are shared.
        self.lock = threading.Lock()

    def show_prediction(self, path: str | None) -> tuple[np.ndarray | None, ...]:
        """The image as read, (H, W, 3) uint8 RGB; it and the prediction, magnified; no receptive field yet; a line of text."""
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
        line = f'{image.shape[1]}x{image.shape[0]}. Click on the image to see what the backbone looks at there.'
        return (*map(mmcv.bgr2rgb, (image, shown, picture)), None, line)

    def show_field(self, image: np.ndarray, at: tuple[float, float]) -> tuple[np.ndarray, str]:
        """How much each pixel contributes to the last feature map at a position, over the image, and a line of text.

        Args:
            image: (H, W, 3) uint8 RGB.
            at: (y, x), as shares of height and width.
        """
        model = self.inferencer.model
        with self.lock, torch.enable_grad():
            mean, std = (values.flatten().tolist() for values in normalization(model))
            size = min(max(*image.shape[:2], MIN_FIELD), MAX_FIELD)
            (square,) = load_images([image], size, mean, std)
            contribution = contribution_map(_last_map(model.backbone), [square.to(next(model.parameters()).device)], at)
        factor = DRAWN_SIZE / max(image.shape[:2])
        width, height = (round(factor * length) for length in image.shape[1::-1])
        background = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
        field = cv2.resize(heat_map(contribution, DRAWN_SIZE), (width, height), interpolation=cv2.INTER_AREA)
        picture = cv2.addWeighted(background, 0.35, field, 0.65, 0)
        cv2.drawMarker(picture, (int(at[1] * width), int(at[0] * height)), (255, 60, 60), cv2.MARKER_CROSS, 24, 2)
        half = area_ratios(contribution, (0.5,), at)[0.5]
        column, row = (int(share * length) for share, length in zip(at[::-1], image.shape[1::-1], strict=True))
        return (
            picture,
            f'Half of what counts at ({column}, {row}) lies in a square around it as large as {half:.1%} of the image.',
        )


def _last_map(backbone: torch.nn.Module):
    """The backbone with a map as its last output, also where a classifier averages it."""

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        averages = getattr(backbone, 'gap_before_final_norm', False)
        backbone.gap_before_final_norm = False
        try:
            return backbone(x)
        finally:
            backbone.gap_before_final_norm = averages

    return forward


def build_page(page: Page, title: str) -> gr.Blocks:
    """The gradio page."""

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
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on; default: %(default)s, this machine only')
    parser.add_argument('--port', type=int, default=7860, help='default: %(default)s')
    parser.add_argument('--device', help='cpu, cuda:0, ...; default: the GPU if there is one')
    add_cfg_options(parser)
    args = parser.parse_args()
    if not 0 < args.port < 2**16:
        raise InputError(f'--port must lie between 1 and 65535, got {args.port}')
    if gr is None:
        raise InputError("the page needs gradio: pip install 'mmpelk[app]'")
    page = Page(init_model(read_config(args.config, args.cfg_options), args.checkpoint, args.device))
    theme = gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace'])  # the web's fonts need the web
    try:
        build_page(page, f'mmpelk: {args.config}').launch(
            server_name=args.host, server_port=args.port, share=False, theme=theme, footer_links=[], max_file_size='64mb'
        )
    except OSError as error:
        raise InputError(f'cannot listen on {args.host}:{args.port}: {error}') from error


if __name__ == '__main__':
    run_tool(main)
