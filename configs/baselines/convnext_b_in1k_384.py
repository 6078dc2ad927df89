# ConvNeXt-B, fine-tuned from 224 to 384 px for 30 epochs: 85.1 top-1 in the paper (Table 4). Start from convnext_b_in1k.py.
_base_ = '../pelk_b_in1k_384_finetune.py'
model = dict(
    backbone=dict(_delete_=True, type='ConvNeXt', arch='base', drop_path_rate=0.8),
    head=dict(in_channels=1024),
)
