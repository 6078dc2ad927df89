# The exponential moving average of the weights, which is validated and saved.
ema = dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')
custom_hooks = [ema]
