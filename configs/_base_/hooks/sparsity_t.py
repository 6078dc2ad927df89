# EMA, and the dynamic sparsity of SLaK-T, which the paper adopts for PeLK-T.
_base_ = 'ema.py'
custom_hooks = [_base_.ema, dict(type='DynamicSparsityHook', sparsity=0.4, interval=2000, rate=0.5)]
