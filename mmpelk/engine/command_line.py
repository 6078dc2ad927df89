"""The parts that all command-line tools share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mmengine.config import DictAction

from mmpelk.checkpoints import install_safe_io
from mmpelk.utils.errors import InputError, first_line, one_line_errors
from mmpelk.utils.pillow import forbid_ghostscript
from mmpelk.utils.torchvision_compat import declare_missing_operators


def run_tool(main: Callable[[], None]) -> None:
    """Run the main function of a tool that uses OpenMMLab.

    Checkpoints are read safely, images are decoded without Ghostscript, and invalid input ends with a one-line error message.
    """
    with one_line_errors():
        forbid_ghostscript()
        install_safe_io()
        declare_missing_operators()
        main()


class SettingsAction(DictAction):
    """mmengine's DictAction, with an error for arguments that are not key=value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        for value in values:
            if not value.partition('=')[0] or '=' not in value:
                parser.error(f'{option_string} takes settings such as key=value, got {value!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (
            AssertionError,
            RecursionError,
            ValueError,
        ) as error:  # mmengine raises a RecursionError for parentheses such as dict(...)
            parser.error(
                f'{option_string} cannot read {" ".join(values)!r}: {first_line(error)}; lists are key="[a,b]" or key=a,b'
            )


def check_outputs(outputs: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
    """Check, before a long computation, that no output is also an input and that no output folder is a file.

    Raises:
        InputError: If an output is also an input, or one of its parent folders is a file.
    """
    inputs = [Path(path).resolve() for path in inputs]
    for path in outputs:
        if Path(path).resolve() in inputs:
            raise InputError(f'{path} is an input and would be overwritten; choose another name or folder')
        folder = next(folder for folder in Path(path).absolute().parents if folder.exists())
        if not folder.is_dir():
            raise InputError(f'{folder} is not a directory; choose another folder for {path}')


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options`` to a parser."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=SettingsAction,
        help='settings that override the config, as key=value; lists as key="[a,b]" or key=a,b',
    )


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that OpenMMLab's train and test tools share."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs, checkpoints, and results; default: work_dirs/<config name>')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')
