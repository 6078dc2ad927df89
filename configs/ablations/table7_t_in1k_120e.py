# PeLK-T at 224 px, 120 epochs: 81.6 top-1 in the paper (Table 7).
_base_ = '../pelk_t_in1k_120e.py'
