# PeLK-B, fine-tuned from 224 to 384 px for 30 epochs: 85.6 top-1 in the paper (Table 4). The paper does not say whether this model is
# fine-tuned, as here, or trains from scratch (pelk_b_in1k_384.py). Start from pelk_b_in1k.py.
_base_ = [
    '_base_/models/pelk_b_cls.py',
    '_base_/datasets/imagenet_384.py',
    '_base_/schedules/in1k_finetune_30e.py',
    '_base_/mmpretrain_runtime.py',
]
# As in ConvNeXt-B: a higher drop path rate, no mixup, and no CutMix.
model = dict(backbone=dict(drop_path_rate=0.8), train_cfg=None)
