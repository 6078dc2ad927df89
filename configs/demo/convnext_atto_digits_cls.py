# A ConvNeXt atto with 7x7 kernels on digits. `make demo-grow` starts from it.
_base_ = 'pelk_atto_digits_cls.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='atto',
        out_indices=(3,),
        drop_path_rate=0.0,
        layer_scale_init_value=1.0,
    ),
    head=dict(in_channels=320),
)
custom_hooks = _base_.custom_hooks[:1]  # EMA without sparsity
