# Exponential moving average (EMA) of the weights and, as in SLaK, of BatchNorm's statistics. Validation and the saved checkpoints use
# the averages.
ema = dict(type='EMAHook', momentum=1e-4, update_buffers=True, priority='ABOVE_NORMAL')
custom_hooks = [ema]
