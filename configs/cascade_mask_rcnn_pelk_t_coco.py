# PeLK-T, Cascade Mask R-CNN, COCO 3x: 51.4 box AP, 44.6 mask AP in the paper (Table 3).
_base_ = [
    '_base_/models/cascade_mask_rcnn_pelk.py',
    '_base_/datasets/coco_instance.py',
    '_base_/schedules/coco_3x.py',
    '_base_/mmdet_runtime.py',
]
