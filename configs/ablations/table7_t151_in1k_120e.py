# PeLK-T-151 at 224 px, 120 epochs: 81.2 top-1 in the paper (Table 7).
_base_ = '../pelk_t_in1k_120e.py'
model = dict(backbone=dict(kernel_sizes=(151, 89, 87, 13), center_size=7))
