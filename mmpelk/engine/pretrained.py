"""Prepare the checkpoints that parts of a model are initialized from."""

from __future__ import annotations

from pathlib import Path

from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmpelk.checkpoints import model_weights, write_checkpoint
from mmpelk.checkpoints.foreign_names import convert, source_weights
from mmpelk.models.backbones import depthwise_kernels, large_kernel_backbones
from mmpelk.utils.wrappers import unwrap

from .preflight import check_checkpoint

# A classifier's checkpoint has only the last of these norms, and each task trains its own.
OUTPUT_NORMS = 'norm[0-3].*'


def prepare_pretrained(model: nn.Module, work_dir: str | Path, checkpoints: dict[str, dict] | None = None) -> None:
    """Check the checkpoints that parts of the model are initialized from (``init_cfg=dict(type='Pretrained', ...)``).

    A checkpoint with foreign names that :mod:`mmpelk.checkpoints.foreign_names` knows is converted for a PeLK or a backbone with grown
    kernels. The result is written to ``work_dir``, and the part is initialized from it.

    Args:
        model: The model, which may be wrapped for distributed training.
        work_dir: Folder for converted checkpoints.
        checkpoints: The content of files that have been read already, by their paths.

    Raises:
        InputError: If a checkpoint is broken or unsafe, fits less than half of its part, lacks depthwise kernels, or has unknown names.
    """
    model, checkpoints = unwrap(model), dict(checkpoints or {})
    backbones = [module for _, module in large_kernel_backbones(model)]
    for module in model.modules():
        inits = getattr(module, 'init_cfg', None) or []
        for init in [inits] if isinstance(inits, dict) else inits:
            if init.get('type') != 'Pretrained':
                continue
            path = str(init['checkpoint'])
            if path not in checkpoints:
                checkpoints[path] = CheckpointLoader.load_checkpoint(path, 'cpu')
            checkpoint = checkpoints[path]
            if any(module is backbone for backbone in backbones):
                checkpoint = _convert_foreign(checkpoint, init, module, Path(work_dir))
            check_checkpoint(init['checkpoint'], module, strict=False, prefix=_prefix(init), checkpoint=checkpoint)


def _prefix(init: dict) -> str:
    """Return the prefix of the names that an ``init_cfg`` selects in a checkpoint. It is empty or ends with a dot."""
    prefix = init.get('prefix') or ''
    return prefix if not prefix or prefix.endswith('.') else f'{prefix}.'


def _convert_foreign(checkpoint: dict, init: dict, backbone: nn.Module, work_dir: Path) -> dict:
    """Convert the checkpoint of an ``init_cfg`` if its names are not the backbone's, and point the ``init_cfg`` to the result.

    Returns:
        The checkpoint that the backbone is then initialized from.

    Raises:
        InputError: If names are unknown, or the checkpoint lacks weights that the backbone needs.
    """
    own = model_weights(checkpoint, _prefix(init))
    if not set(depthwise_kernels(backbone)).isdisjoint(own):
        return checkpoint
    if not own and _prefix(init) not in ('', 'backbone.'):  # the wrong part of a checkpoint is not a foreign checkpoint
        return checkpoint
    conversion = convert(source_weights(checkpoint), backbone)
    conversion.check(init['checkpoint'], allow_missing=[OUTPUT_NORMS], allow_unused=[OUTPUT_NORMS])
    converted = work_dir / f'converted_{Path(str(init["checkpoint"])).stem}.pth'
    result = dict(state_dict=conversion.weights, meta=dict(converted_from=str(init['checkpoint'])))
    write_checkpoint(result, converted)
    print_log(f"{init['checkpoint']} has foreign names; the backbone's weights in it are converted to {converted}", 'current')
    init.update(checkpoint=str(converted), prefix='backbone.')
    return result


def initialize_head(runner: Runner, path: str, checkpoint: dict) -> None:
    """Initialize a classifier's head from a checkpoint too, if the checkpoint has a head of the same shape.

    Args:
        runner: A runner whose model has not been initialized yet.
        path: The checkpoint file.
        checkpoint: Its content.
    """
    head = getattr(unwrap(runner.model), 'head', None)
    if not isinstance(head, nn.Module):
        return
    weights = model_weights(checkpoint, 'head.')
    fits = {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in head.state_dict().items()
    }
    if fits:
        head.init_cfg = dict(type='Pretrained', checkpoint=path, prefix='head.')
    runner.logger.info(
        f'the head starts from {path if fits else "random weights, because the checkpoint has no head of its shape"}'
    )
