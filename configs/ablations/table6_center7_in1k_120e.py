# Fine-grained center of 7x7, 120 epochs: 81.6 top-1 in the paper (Table 6).
_base_ = '../pelk_t_in1k_120e.py'
model = dict(backbone=dict(center_size=7))
