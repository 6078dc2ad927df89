# PeLK-T-101 at 384 px, 120 epochs: 83.0 top-1 in the paper (Table 7).
_base_ = 'table7_t_in1k_384_120e.py'
model = dict(backbone=dict(kernel_sizes=(101, 69, 67, 13), center_size=7))
