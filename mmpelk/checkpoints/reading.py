"""Read checkpoints without running code from them."""

from __future__ import annotations

import contextlib
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmpelk.utils.errors import InputError, first_line

from . import restricted_pickle
from .safe_types import CAN_ALLOW_TYPES, mmengine_types

# torch's error messages span several lines. The line that contains one of these texts names the type that was refused.
REFUSALS = ('GLOBAL', 'Unsupported', 'Can only build')


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint file without running code from it (``weights_only=True``).

    The entry ``meta['config']`` is left out, because mmengine would run it.

    Args:
        path: A local file that ``torch.save`` wrote, or a safetensors file if its suffix is ``.safetensors``.
        map_location: See ``torch.load``.

    Raises:
        InputError: If the file does not exist, is truncated or damaged, or contains anything but tensors, plain Python types, and
            mmengine's types.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'checkpoint {path} does not exist')
    if path.suffix == '.safetensors':
        return _read_safetensors(path)
    return load_safely(path, str(path), map_location)


def load_safely(file: Any, name: str, map_location: Any) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``.

    Args:
        file: A path or a binary file object.
        name: The name of the checkpoint in error messages.
        map_location: See ``torch.load``.

    Raises:
        InputError: If the file is truncated or damaged, or contains anything but tensors, plain Python types, and mmengine's types.
    """
    try:
        broken = _broken_entry(file)
        if broken is None:
            checkpoint = load_allowed_types(file, map_location)
    except pickle.UnpicklingError as error:
        refused = [line.strip() for line in str(error).splitlines() if any(text in line for text in REFUSALS)]
        if not refused:
            raise InputError(f'checkpoint {name} is truncated or not a checkpoint: {first_line(error)}') from error
        raise InputError(f'checkpoint {name} cannot be loaded safely: {refused[0]}') from error
    except Exception as error:  # damaged bytes can make torch raise anything, such as an IndexError or a MemoryError
        raise InputError(f'checkpoint {name} is truncated or not a checkpoint: {first_line(error)}') from error
    if broken is not None:
        raise InputError(f'checkpoint {name} is damaged: {broken}; copy or download it again')
    return _checked(checkpoint, name)


def load_allowed_types(file: Any, map_location: Any = None) -> Any:
    """Read an object that consists of tensors, plain Python types, and mmengine's types. No other code runs.

    Raises:
        pickle.UnpicklingError: If the file contains anything else.
    """
    if CAN_ALLOW_TYPES:
        with mmengine_types():
            return torch.load(file, map_location=map_location, weights_only=True)
    _refuse_archives(file)
    return torch.load(file, map_location=map_location, weights_only=False, pickle_module=restricted_pickle)


def _refuse_archives(file: Any) -> None:
    """Reject the formats for which ``torch.load`` does not use its ``pickle_module``.

    Raises:
        pickle.UnpicklingError: If the file is a TorchScript program, or a tar archive as torch 0.1 wrote it.
    """
    with contextlib.nullcontext(file) if hasattr(file, 'read') else open(file, 'rb') as opened:
        is_tar = tarfile.is_tarfile(opened)
        opened.seek(0)
        is_zip = opened.read(4) == b'PK\3\4'
        opened.seek(0)
        if is_tar or is_zip and 'constants.pkl' in torch._C.PyTorchFileReader(opened).get_all_records():
            raise pickle.UnpicklingError('Unsupported: a TorchScript program or a tar archive')
        opened.seek(0)


def _broken_entry(file: Any) -> str | None:
    """Check the checksums in a checkpoint, which ``torch.load`` does not do.

    Returns:
        A description of the damage, or None.

    Raises:
        ValueError: If the file was not written by ``torch.save``.
        OSError: If the file cannot be read.
        zipfile.BadZipFile: If the file is truncated.
    """
    with contextlib.nullcontext(file) if hasattr(file, 'read') else open(file, 'rb') as opened:
        start = opened.read(4)
        if start == b'PK\3\4':  # torch.save has written zip files since torch 1.6
            with zipfile.ZipFile(opened) as archive:
                # torch.serialization.set_crc32_options(False) writes zeros instead of checksums.
                has_checksums = any(entry.CRC for entry in archive.infolist())
                damaged = archive.testzip() if has_checksums else None
                if damaged is not None:
                    return f'the checksum of its part {damaged!r} is wrong'
        elif not start.startswith(b'\x80'):  # older versions wrote a pickle
            raise ValueError(f'it begins with {start!r}; expected a file that torch.save wrote')
        opened.seek(0)
    return None


def _checked(checkpoint: Any, name: str) -> dict[str, Any]:
    """Check the parts of a checkpoint that all tools use, and remove the config that mmengine would run.

    Raises:
        InputError: If a part does not have the type that mmengine saves.
    """
    if not isinstance(checkpoint, dict):
        raise InputError(f'checkpoint {name} contains a {type(checkpoint).__name__}; expected a dict with weights')
    if checkpoint.get('meta', {}) is None:
        checkpoint['meta'] = {}
    for key in ('state_dict', 'meta'):
        part = checkpoint.get(key, {})
        if not isinstance(part, dict):
            raise InputError(f"checkpoint {name} has a {type(part).__name__} as '{key}'; expected a dict")
    for key in (*checkpoint, *checkpoint.get('state_dict', {})):
        if not isinstance(key, str):
            raise InputError(f'checkpoint {name} has {key!r} as the name of a weight; expected text')
    # mmengine's Runner.resume runs the config in meta['config'] as Python code. It saves meta['cfg'] itself; only mmcv wrote 'config'.
    checkpoint.get('meta', {}).pop('config', None)
    return checkpoint


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f'checkpoint {path} is truncated or not a safetensors file: {first_line(error)}') from error


def model_weights(checkpoint: Mapping[str, Any], prefix: str = '') -> dict[str, Tensor]:
    """Return the weights whose names start with ``prefix``, and remove it from the names. DDP's 'module.' prefix is removed first.

    mmengine's EMAHook saves the averaged weights under 'state_dict', so the weights of an EMA checkpoint are the averaged ones.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    weights = {name.removeprefix('module.'): value for name, value in weights.items() if isinstance(value, Tensor)}
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
