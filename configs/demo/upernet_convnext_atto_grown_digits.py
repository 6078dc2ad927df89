# upernet_convnext_atto_digits.py with kernels grown to 51-49-47-13. It can load that config's checkpoints directly.
_base_ = 'upernet_convnext_atto_digits.py'
model = dict(
    backbone=dict(_delete_=True, type='GrownBackbone', backbone=_base_.model.backbone, kernel_sizes=(51, 49, 47, 13)),
)
