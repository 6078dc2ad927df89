# PeLK-B, Cascade Mask R-CNN, COCO 1x: 12 epochs instead of 36.
_base_ = ['cascade_mask_rcnn_pelk_b_coco.py', '_base_/schedules/coco_1x.py']
train_cfg = _base_.train_cfg_1x
param_scheduler = _base_.param_scheduler_1x
