# Fine-grained center of 3x3, 120 epochs: 81.1 top-1 in the paper (Table 6).
_base_ = '../pelk_t_in1k_120e.py'
model = dict(backbone=dict(center_size=3))
