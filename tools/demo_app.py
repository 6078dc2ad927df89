"""Serve a web page that draws the prediction for an image, and the effective receptive field at a click. It runs offline."""

from __future__ import annotations

import argparse

from mmpelk.analysis.demo_page import Page, check_gradio, serve
from mmpelk.apis import init_model
from mmpelk.apis.inference import max_pixels
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError


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
    check_gradio()
    inferencer = init_model(read_config(args.config, args.cfg_options), args.checkpoint, args.device)
    pixels = max_pixels(inferencer)
    print(f'images may have up to {pixels:,} pixels', flush=True)
    serve(Page(inferencer, pixels), f'mmpelk: {args.config}', args.host, args.port)


if __name__ == '__main__':
    run_tool(main)
