# Fine-grained center of 1x1, 120 epochs: 80.8 top-1 in the paper (Table 6).
_base_ = '../pelk_t_in1k_120e.py'
model = dict(backbone=dict(center_size=1))
