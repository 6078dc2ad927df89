"""Reading checkpoints safely, and telling whether one fits a model."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine import fileio
from mmengine.dist import barrier, get_dist_info
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmpelk.errors import InputError, first_line
from mmpelk.models import PeLK

from .safe_types import allow_mmengine_types


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint file without running code from it (``weights_only=True``).

    Args:
        path: A local file, of ``torch.save`` or, if its name ends so, of safetensors.
        map_location: As for ``torch.load``.

    Raises:
        InputError: If there is no such file, or it is truncated, or holds anything but tensors and plain or mmengine types.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'checkpoint {path} does not exist')
    if path.suffix == '.safetensors':
        return _read_safetensors(path)
    return _load(path, str(path), map_location)


def _load(file: Any, name: str, map_location: Any) -> dict[str, Any]:
    allow_mmengine_types()
    try:
        checkpoint = torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        refused = [line.strip() for line in str(error).splitlines() if 'GLOBAL' in line or 'Unsupported' in line]
        if not refused:
            raise InputError(f'checkpoint {name} is truncated or no checkpoint: {first_line(error)}') from error
        raise InputError(f'checkpoint {name} cannot be loaded safely: {refused[0]}') from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f'checkpoint {name} is truncated or no checkpoint: {first_line(error)}') from error
    if not isinstance(checkpoint, dict):
        raise InputError(f'checkpoint {name} holds a {type(checkpoint).__name__}; expected a dict with weights')
    return checkpoint


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f'checkpoint {path} is truncated or no safetensors file: {first_line(error)}') from error


# mmengine's own loaders know no mmengine types on the originals, and on OneDL load what they cannot load safely all the same.
# mmengine calls these instead, on resume, load_from and init_cfg alike.
@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a local file."""
    return read_checkpoint(filename, map_location)


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_from_http(filename: str, map_location: Any = None, model_dir: str | None = None) -> dict[str, Any]:
    """Download a file once a machine, into torch's cache or ``model_dir``, and read it."""
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    path = folder / Path(urlparse(filename).path).name
    if get_dist_info()[0] == 0 and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(filename, str(path))
        except OSError as error:
            raise InputError(f'checkpoint {filename} cannot be downloaded: {first_line(error)}') from error
    barrier()
    return read_checkpoint(path, map_location)


@CheckpointLoader.register_scheme(prefixes=(r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), force=True)
def load_from_store(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a file from an object store that mmengine's file backends reach."""
    return _load(io.BytesIO(fileio.get(filename)), filename, map_location)


@CheckpointLoader.register_scheme(
    prefixes=('pavi://', 'modelzoo://', 'torchvision://', 'open-mmlab://', 'openmmlab://', 'mmcls://'), force=True
)
def refuse(filename: str, map_location: Any = None) -> dict[str, Any]:
    """These schemes lead to mmengine's own unsafe reading."""
    raise InputError(f'checkpoint {filename} cannot be loaded safely by this scheme; download the file and give its path')


def model_weights(checkpoint: Mapping[str, Any], prefix: str = '') -> dict[str, Tensor]:
    """The weights in a checkpoint, of the part named by ``prefix`` and without it; without DDP's 'module.' in front.

    mmengine's EMA hook saves the averaged weights as 'state_dict', so these are what an EMA checkpoint gives.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    weights = {name.removeprefix('module.'): value for name, value in weights.items() if isinstance(value, Tensor)}
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def check_prefix(checkpoint: Mapping[str, Any], prefix: str, path: str | Path) -> None:
    """Check that a checkpoint has weights whose names begin so.

    Raises:
        InputError: If it has none; the message names the beginnings there are.
    """
    if not model_weights(checkpoint, prefix):
        there = sorted({name.split('.')[0] + '.' for name in model_weights(checkpoint)})
        names = f'its names begin with {", ".join(there[:8])}' if there else 'it holds no weights'
        raise InputError(f"checkpoint {path} has no weights under prefix '{prefix}': {names}")


def fit_kernels(weights: dict[str, Tensor], model: nn.Module) -> list[str]:
    """Carry kernels in ``weights`` to the grids of every PeLK in the model, in place; see :meth:`PeLK.fit_kernels`."""
    return [line for prefix, module in _pelk_modules(model) for line in module.fit_kernels(weights, prefix)]


def _pelk_modules(model: nn.Module) -> list[tuple[str, PeLK]]:
    """Every PeLK in a model, with the prefix of its names."""
    return [(f'{name}.' if name else '', module) for name, module in model.named_modules() if isinstance(module, PeLK)]


def check_fit(
    weights: Mapping[str, Tensor], model: nn.Module, path: str | Path, at_least: float = 1.0, resize: bool = True
) -> None:
    """Check that weights belong to a model, by names and shapes.

    Args:
        weights: From the checkpoint.
        model: The model to load into.
        path: The checkpoint's file, for the message.
        at_least: Share of the model's tensors that must be matched; at 1, the weights must hold nothing else either. Below 1,
            shapes may differ outside of PeLK, as those of a head for other classes do.
        resize: Whether kernels of other grids count as matched, as they are resized on loading.

    Raises:
        InputError: If they do not fit; the message counts what is missing, unexpected and of another shape, with an example.
    """
    weights = dict(weights)
    resized = fit_kernels(weights, model)
    if resized and not resize:
        raise InputError(
            f'checkpoint {path} was trained with other kernels ({resized[0]}); start from it with --pretrained instead'
        )
    expected = model.state_dict()
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected] if at_least == 1 else []
    misshapen = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    matched = len(expected) - len(missing) - len(misshapen)
    in_pelk = tuple(prefix for prefix, _ in _pelk_modules(model))
    misshapen.sort(key=lambda name: not name.startswith(in_pelk))  # PeLK's first
    spoilt = misshapen and misshapen[0].startswith(in_pelk)
    if matched >= at_least * len(expected) and not unexpected and not spoilt:
        return
    faults = []
    if misshapen:
        name = misshapen[0]
        faults.append(
            f'{len(misshapen)} have another shape '
            f'({name} is {tuple(weights[name].shape)}, the model needs {tuple(expected[name].shape)})'
        )
    for kind, names in (('missing', missing), ('unexpected', unexpected)):
        if names:
            faults.append(f'{len(names)} are {kind} ({names[0]})')
    raise InputError(f'checkpoint {path} is of another model: of {len(expected)} tensors, {matched} fit, ' + ', '.join(faults))
