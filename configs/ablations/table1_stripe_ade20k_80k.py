# SLaK-51 without sparsity in UperNet, 80k iterations: 46.1 mIoU in the paper (Table 1). Start from table1_stripe_in1k_120e.py.
_base_ = 'table1_stripe_sparse_ade20k_80k.py'
channels = [96, 192, 384, 768]
model = dict(
    backbone=dict(width_factor=1.0),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=channels[2]),
)
