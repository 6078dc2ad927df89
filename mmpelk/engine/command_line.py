"""The parts that all command-line tools share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from mmengine.config import DictAction

from mmpelk.checkpoints import install_safe_io
from mmpelk.utils.errors import one_line_errors
from mmpelk.utils.pillow import forbid_ghostscript
from mmpelk.utils.torchvision_compat import declare_missing_operators


def run_tool(main: Callable[[], None]) -> None:
    """Run the main function of a tool that uses OpenMMLab.

    Checkpoints are read safely, images are decoded without Ghostscript, and invalid input ends in one line.
    """
    with one_line_errors():
        forbid_ghostscript()
        install_safe_io()
        declare_missing_operators()
        main()


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options`` to a parser."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config, as key=value; lists as key="[a,b]" or key=a,b',
    )


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that OpenMMLab's train and test tools share."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs, checkpoints, and results; default: work_dirs/<config name>')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')
