# RepLK-51 with sparsity in UperNet, 80k iterations: 46.9 mIoU in the paper (Table 1). Start from table1_dense_sparse_in1k_120e.py.
_base_ = [
    '../_base_/models/upernet_pelk.py',
    '../_base_/kernel_forms.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_80k.py',
    '../_base_/mmseg_runtime.py',
]
model = dict(backbone=dict(_base_.dense_kernels, drop_path_rate=0.1))
