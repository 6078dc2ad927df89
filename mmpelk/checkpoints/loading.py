"""Reading checkpoints safely, and telling whether one fits a model."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmpelk.errors import InputError


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file on the CPU without running code from it (``weights_only=True``).

    Raises:
        InputError: If there is no such file, or it is truncated, or holds anything but tensors and plain or mmengine types.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'checkpoint {path} does not exist')
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next(
            (line.strip() for line in str(error).splitlines() if 'Unsupported' in line or 'GLOBAL' in line), 'no pickle'
        )
        raise InputError(f'checkpoint {path} cannot be loaded safely: {reason}') from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f'checkpoint {path} is truncated or no checkpoint: {str(error).splitlines()[0]}') from error
    if not isinstance(checkpoint, dict):
        raise InputError(f'checkpoint {path} holds a {type(checkpoint).__name__}; expected a dict with weights')
    return checkpoint


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
