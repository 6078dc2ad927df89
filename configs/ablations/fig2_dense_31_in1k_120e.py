# A point of Fig. 2: 31x31 dense kernels, without sparsity, 120 epochs. table1_dense_in1k_120e.py is the point at 51.
_base_ = 'table1_dense_in1k_120e.py'
model = dict(backbone=dict(kernel_sizes=(31, 29, 27, 13)))
