"""Reading checkpoints safely, and telling whether one fits a model."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmpelk.errors import InputError, first_line

from .safe_types import allow_mmengine_types


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint file without running code from it (``weights_only=True``).

    Args:
        path: A local file.
        map_location: As for ``torch.load``.

    Raises:
        InputError: If there is no such file, or it is truncated, or holds anything but tensors and plain or mmengine types.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'checkpoint {path} does not exist')
    allow_mmengine_types()
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        refused = [line.strip() for line in str(error).splitlines() if 'GLOBAL' in line or 'Unsupported' in line]
        if not refused:
            raise InputError(f'checkpoint {path} is truncated or no checkpoint: {first_line(error)}') from error
        raise InputError(f'checkpoint {path} cannot be loaded safely: {refused[0]}') from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f'checkpoint {path} is truncated or no checkpoint: {first_line(error)}') from error
    if not isinstance(checkpoint, dict):
        raise InputError(f'checkpoint {path} holds a {type(checkpoint).__name__}; expected a dict with weights')
    return checkpoint


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """What mmengine calls for a local file, on resume, load_from and init_cfg alike. Its own loader knows no mmengine types on the
    originals, and on OneDL loads what it cannot load safely all the same.
    """
    return read_checkpoint(filename, map_location)


def model_weights(checkpoint: Mapping[str, Any], prefix: str = '') -> dict[str, Tensor]:
    """The weights in a checkpoint, of the part named by ``prefix`` and without it; without DDP's 'module.' in front."""
    weights = checkpoint.get('state_dict', checkpoint)
    weights = {name.removeprefix('module.'): value for name, value in weights.items() if isinstance(value, Tensor)}
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def check_fit(weights: Mapping[str, Tensor], model: nn.Module, path: str | Path, at_least: float = 1.0) -> None:
    """Check that weights belong to a model, by names and shapes.

    Args:
        weights: From the checkpoint.
        model: The model to load into.
        path: The checkpoint's file, for the message.
        at_least: Share of the model's tensors that must be matched; at 1, the weights must hold nothing else either.

    Raises:
        InputError: If they do not fit; the message counts what is missing, unexpected and of another shape, with an example.
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected] if at_least == 1 else []
    misshapen = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    matched = len(expected) - len(missing) - len(misshapen)
    if matched >= at_least * len(expected) and not unexpected:
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
