# SLaK-51: stripes, without sparsity, 120 epochs: 81.3 top-1 in the paper (Table 1).
_base_ = '../pelk_t_in1k_120e.py'
model = dict(backbone=dict(kernel_form='stripe', conv_ratio=1.0, pos_embed=None))
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
