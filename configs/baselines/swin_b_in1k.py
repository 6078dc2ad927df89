# Swin-B, ImageNet-1K at 224 px: 83.5 top-1 in the paper (Table 4).
_base_ = 'swin_t_in1k.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1024))
train_dataloader = dict(batch_size=64)
