# Exponential moving average (EMA) of the weights. Validation and the saved checkpoints use the averaged weights.
ema = dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')
custom_hooks = [ema]
