"""Very small models with random weights: a backbone, and a config and a checkpoint for each framework."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import CONFIGS, save_untrained
from mmengine.model import BaseModule, BaseTTAModel, MMDistributedDataParallel
from torch import nn

from mmpelk.models import PeLK

SMALL = dict(depths=(2, 1, 2, 1), channels=(16, 24, 32, 40))

BACKBONE = """backbone=dict(
        arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(8, 16, 16, 16)),
        kernel_sizes=(21, 15, 13, 7),
        layer_scale_init_value=1.0,
    )"""
SEGMENTOR = f"""
_base_ = '{CONFIGS}/demo/upernet_pelk_atto_digits.py'
model = dict(
    {BACKBONE},
    decode_head=dict(in_channels=[10, 20, 20, 20], channels=8),
    auxiliary_head=dict(in_channels=20, channels=8),
)
"""
CLASSIFIER = f"""
_base_ = '{CONFIGS}/demo/pelk_atto_digits_cls.py'
model = dict({BACKBONE}, head=dict(in_channels=20))
"""
DETECTOR = f"""
_base_ = '{CONFIGS}/demo/cascade_mask_rcnn_pelk_atto_digits.py'
model = dict({BACKBONE}, neck=dict(in_channels=[10, 20, 20, 20]), test_cfg=dict(rcnn=dict(score_thr=0.0)))
"""
MODELS = dict(mmseg=SEGMENTOR, mmpretrain=CLASSIFIER, mmdet=DETECTOR)


def randomized(**options) -> PeLK:
    """Return a backbone whose norms are not the identity."""
    torch.manual_seed(0)
    model = PeLK(SMALL, **dict(drop_path_rate=0.0, layer_scale_init_value=1.0) | options)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype == torch.float32 and tensor.ndim == 1:
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def save_model(folder: Path, name: str, text: str) -> tuple[Path, Path]:
    """Write a config, and a checkpoint of its model, and return their paths."""
    config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
    config.write_text(text)
    save_untrained(config, checkpoint)
    return config, checkpoint


class Part(BaseModule):
    """Two layers, with the checkpoint from which they are initialized."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 2)


def save_part(folder: Path) -> Path:
    """Save the checkpoint of a Part under the prefix 'backbone.'."""
    weights = {f'backbone.{name}': value for name, value in Part().state_dict().items()}
    torch.save(dict(state_dict=weights, meta={}), folder / 'saved.pth')
    return folder / 'saved.pth'


def in_wrappers(model: nn.Module) -> nn.Module:
    """Wrap the model as in a distributed test with test-time augmentation. DDP itself would need a process group."""
    inner = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(inner)
    inner.module = model

    class TTA(BaseTTAModel):
        def merge_preds(self, data_samples_list):
            raise NotImplementedError

    outer = TTA.__new__(TTA)
    nn.Module.__init__(outer)
    outer.module = inner
    return outer
