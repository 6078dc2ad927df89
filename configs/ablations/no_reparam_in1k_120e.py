# PeLK-T without the small branch that is re-parameterized into the large kernel, 120 epochs (the paper's supplement). The large kernel
# keeps its BatchNorm.
_base_ = '../pelk_t_in1k_120e.py'
model = dict(backbone=dict(small_kernel=None))
