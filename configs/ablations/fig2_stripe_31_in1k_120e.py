# A point of Fig. 2: 31x5 and 5x31 stripes, without sparsity, 120 epochs. table1_stripe_in1k_120e.py is the point at 51.
_base_ = 'table1_stripe_in1k_120e.py'
model = dict(backbone=dict(kernel_sizes=(31, 29, 27, 13)))
