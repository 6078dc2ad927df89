# A point of Fig. 2: 21x5 and 5x21 stripes, without sparsity, 120 epochs. table1_stripe_in1k_120e.py is the point at 51.
_base_ = 'table1_stripe_in1k_120e.py'
model = dict(backbone=dict(kernel_sizes=(21, 19, 17, 13)))
