# SLaK-51: stripes, with sparsity, 120 epochs: 81.6 top-1 in the paper (Table 1).
_base_ = '../pelk_t_in1k_120e.py'
model = dict(backbone=dict(kernel_form='stripe', conv_ratio=1.0, pos_embed=None))
