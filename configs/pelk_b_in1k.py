# PeLK-B, ImageNet-1K at 224 px, 300 epochs: 84.2 top-1 in the paper (Table 4).
_base_ = 'pelk_s_in1k.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1331))
train_dataloader = dict(batch_size=64)
