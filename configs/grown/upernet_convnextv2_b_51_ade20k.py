# ConvNeXt V2-B grown to 51x51, UperNet, ADE20K. The recipe is ConvNeXt-B's, because mmseg has none for V2. The checkpoint is
# mmpretrain's, which was trained on ImageNet-1k after FCMAE pre-training.
# On one GPU, the batch of 16 is accumulated from 2 images at a time. A step then needs 8.6 GiB in float32 (measured on a CPU).
_base_ = 'upernet_convnext_b_51_ade20k.py'
checkpoint = (
    'https://mmassets.onedl.ai/mmclassification/v0/convnext-v2/convnext-v2-base_fcmae-pre_3rdparty_in1k_20230104-00a70fa4.pth'
)
model = dict(
    backbone=dict(
        backbone=dict(use_grn=True, layer_scale_init_value=0.0),
        init_cfg=dict(checkpoint=checkpoint),
    )
)
