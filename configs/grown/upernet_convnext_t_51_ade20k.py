# ConvNeXt-T grown to 51x51, UperNet, ADE20K, with the recipe of mmseg's ConvNeXt config.
# With this config, tools/test.py reproduces the result of mmseg's fine-tuned
# upernet_convnext_tiny_fp16_512x512_160k_ade20k_20220227_124553-cad485de.pth
# (46.11 mIoU, as mmseg reports it), because growing is exact.
# On one GPU, the batch of 16 is accumulated from 2 images at a time. A step then needs 4.4 GiB in float32 (measured on a CPU).
_base_ = '../baselines/upernet_convnext_t_ade20k.py'
checkpoint = 'https://mmassets.onedl.ai/mmclassification/v0/convnext/downstream/convnext-tiny_3rdparty_32xb128-noema_in1k_20220301-795e9634.pth'
model = dict(
    backbone=dict(
        _delete_=True,
        type='GrownBackbone',
        backbone=_base_.model.backbone,
        kernel_sizes=(51, 49, 47, 13),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    )
)
