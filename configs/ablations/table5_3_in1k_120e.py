# 33x33 kernels, sharing grid #3, no h, no sparsity, 120 epochs: 81.4 top-1 in the paper (Table 5). The last stage keeps its 13x13 kernel.
_base_ = 'table5_1_in1k_120e.py'
grid = [2, 2, 2, 2, 2, 2, 2, 1, 1, 1]
model = dict(backbone=dict(sharing_grids=[grid, grid, grid, [2, 2, 1, 1, 1]]))
