# A point of Fig. 2: 41x41 dense kernels, without sparsity, 120 epochs. table1_dense_in1k_120e.py is the point at 51.
_base_ = 'table1_dense_in1k_120e.py'
model = dict(backbone=dict(kernel_sizes=(41, 39, 37, 13)))
