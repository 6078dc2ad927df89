"""Convert a checkpoint file with the names of another package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmpelk.utils.errors import InputError, build_errors

from .feature_change import measure_feature_change
from .foreign_names import convert, format_table, source_weights
from .reading import read_checkpoint
from .writing import write_checkpoint


def convert_checkpoint(
    cfg: Config,
    source: str | Path,
    out: str | Path,
    ema: bool = False,
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
) -> None:
    """Convert a checkpoint to the backbone of a config, and print how each tensor is used.

    Args:
        cfg: The config of the model that will load the result.
        source: The checkpoint to convert.
        out: The checkpoint to write.
        ema: Whether to convert 'model_ema' of an official checkpoint.
        allow_missing, allow_unused: See :meth:`mmpelk.checkpoints.foreign_names.Conversion.check`.

    Raises:
        InputError: If the checkpoint cannot be read or does not fit the backbone.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    checkpoint = read_checkpoint(source)
    if ema and 'model_ema' not in checkpoint:
        raise InputError(f"checkpoint {source} has no 'model_ema'; its keys are {', '.join(list(checkpoint)[:8])}")
    with build_errors():
        model = MODELS.build(cfg.model)
    conversion = convert(source_weights(checkpoint, ema), model)
    print(format_table(conversion.rows()))
    conversion.check(source, allow_missing, allow_unused)
    in_backbone = {
        name.removeprefix('backbone.'): value for name, value in conversion.weights.items() if name.startswith('backbone.')
    }
    change = measure_feature_change(model.backbone, in_backbone)
    if change is not None:
        print(change)
    write_checkpoint(dict(state_dict=conversion.weights, meta=dict(converted_from=str(source))), out)
    print(f'{len(conversion.weights)} tensors, {len(in_backbone)} of them in the backbone, written to {out}')
