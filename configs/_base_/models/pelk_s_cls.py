# PeLK-S as an ImageNet classifier.
_base_ = 'pelk_cls.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.4))
