# PeLK-B as an ImageNet classifier.
_base_ = 'pelk_cls.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1331))
