# EMA, and the dynamic sparsity of SLaK-S and SLaK-B, which the paper adopts for PeLK-S and PeLK-B.
_base_ = 'ema.py'
custom_hooks = [_base_.ema, dict(type='DynamicSparsityHook', sparsity=0.4, interval=100, rate=0.3)]
