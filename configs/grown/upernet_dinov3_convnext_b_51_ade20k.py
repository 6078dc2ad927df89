# DINOv3's ConvNeXt-B grown to 51x51, UperNet, ADE20K. The recipe is ConvNeXt-B's, because DINOv3 has no published one. The
# checkpoint is timm's convnext_base.dinov3_lvd1689m, under the DINOv3 License. tools/train.py converts its names. The address follows
# timm's naming; we have not downloaded it. --pretrained takes a local file instead.
# On one GPU, the batch of 16 is accumulated from 2 images at a time. A step then needs 6.6 GiB in float32 (measured on a CPU).
_base_ = 'upernet_convnext_b_51_ade20k.py'
checkpoint = 'https://huggingface.co/timm/convnext_base.dinov3_lvd1689m/resolve/main/model.safetensors'
model = dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint=checkpoint)))
