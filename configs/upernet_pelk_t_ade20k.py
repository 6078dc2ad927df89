# PeLK-T, UperNet, ADE20K: 48.1 mIoU in the paper (Table 2).
_base_ = [
    '_base_/models/upernet_pelk.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/ade20k_160k.py',
    '_base_/mmseg_runtime.py',
]
