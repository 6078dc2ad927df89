# Kernels without peripheral convolution: they convolve all channels and have no positional embedding.
dense_kernels = dict(kernel_form='dense', conv_ratio=1.0, pos_embed=None)  # RepLKNet
stripe_kernels = dict(kernel_form='stripe', conv_ratio=1.0, pos_embed=None)  # SLaK
