"""The numbers printed in the paper (arXiv 2403.07589), and the config for each."""

from __future__ import annotations

from typing import NamedTuple

# In Tables 1 to 8, models with 40% sparsity keep this fraction of their 2-D and 4-D weights.
SPARSE = 0.6


class Row(NamedTuple):
    """A row of Table 2 (ADE20K, UperNet), Table 3 (COCO, Cascade Mask R-CNN), or Table 4 (ImageNet).

    Attributes:
        table: Number of the table.
        method: Name of the model in the paper.
        config: Path of the config below ``configs/``, without the suffix; None for models that mmpelk does not build.
        size: (H, W) of the input for which multiply-adds are counted.
        density: Fraction of the weights that are kept.
        params: Printed number of parameters, in millions.
        gmacs: Printed number of multiply-adds, in 10^9. The paper calls them FLOPs.
        quality: Printed mIoU, box AP / mask AP, or top-1 accuracy.
    """

    table: int
    method: str
    config: str | None
    size: tuple[int, int]
    density: float
    params: float
    gmacs: float
    quality: str


ROWS = [
    Row(2, 'Swin-T', 'baselines/upernet_swin_t_ade20k', (512, 2048), 1.0, 60, 945, '44.5 mIoU'),
    Row(2, 'ConvNeXt-T', 'baselines/upernet_convnext_t_ade20k', (512, 2048), 1.0, 60, 939, '46.0 mIoU'),
    Row(2, 'SLaK-T', 'baselines/upernet_slak_t_ade20k', (512, 2048), SPARSE, 64, 957, '47.6 mIoU'),
    Row(2, 'PeLK-T', 'upernet_pelk_t_ade20k', (512, 2048), SPARSE, 62, 970, '48.1 mIoU'),
    Row(2, 'Swin-S', 'baselines/upernet_swin_s_ade20k', (512, 2048), 1.0, 81, 1038, '47.6 mIoU'),
    Row(2, 'ConvNeXt-S', 'baselines/upernet_convnext_s_ade20k', (512, 2048), 1.0, 82, 1027, '48.7 mIoU'),
    Row(2, 'SLaK-S', 'baselines/upernet_slak_s_ade20k', (512, 2048), SPARSE, 89, 1057, '49.4 mIoU'),
    Row(2, 'PeLK-S', 'upernet_pelk_s_ade20k', (512, 2048), SPARSE, 84, 1077, '49.7 mIoU'),
    Row(2, 'Swin-B', 'baselines/upernet_swin_b_ade20k', (512, 2048), 1.0, 121, 1188, '48.1 mIoU'),
    Row(2, 'ConvNeXt-B', 'baselines/upernet_convnext_b_ade20k', (512, 2048), 1.0, 122, 1170, '49.1 mIoU'),
    Row(2, 'RepLKNet-B', 'baselines/upernet_replknet_b_ade20k', (512, 2048), 1.0, 112, 1170, '49.9 mIoU'),
    Row(2, 'SLaK-B', 'baselines/upernet_slak_b_ade20k', (512, 2048), SPARSE, 131, 1210, '50.2 mIoU'),
    Row(2, 'PeLK-B', 'upernet_pelk_b_ade20k', (512, 2048), SPARSE, 126, 1237, '50.4 mIoU'),
    Row(2, 'PeLK-B-101', 'upernet_pelk_b101_ade20k', (512, 2048), SPARSE, 126, 1339, '50.6 mIoU'),
    Row(3, 'Swin-T', 'baselines/cascade_mask_rcnn_swin_t_coco', (800, 1280), 1.0, 86, 745, '50.5 / 43.7 AP'),
    Row(3, 'ConvNeXt-T', 'baselines/cascade_mask_rcnn_convnext_t_coco', (800, 1280), 1.0, 86, 741, '50.4 / 43.7 AP'),
    Row(3, 'PeLK-T', 'cascade_mask_rcnn_pelk_t_coco', (800, 1280), SPARSE, 86, 770, '51.4 / 44.6 AP'),
    Row(3, 'Swin-S', 'baselines/cascade_mask_rcnn_swin_s_coco', (800, 1280), 1.0, 107, 838, '51.8 / 44.7 AP'),
    Row(3, 'ConvNeXt-S', 'baselines/cascade_mask_rcnn_convnext_s_coco', (800, 1280), 1.0, 108, 827, '51.9 / 45.0 AP'),
    Row(3, 'PeLK-S', 'cascade_mask_rcnn_pelk_s_coco', (800, 1280), SPARSE, 108, 874, '52.2 / 45.3 AP'),
    Row(3, 'Swin-B', 'baselines/cascade_mask_rcnn_swin_b_coco', (800, 1280), 1.0, 145, 982, '51.9 / 45.0 AP'),
    Row(3, 'RepLKNet-B', 'baselines/cascade_mask_rcnn_replknet_b_coco', (800, 1280), 1.0, 137, 965, '52.2 / 45.2 AP'),
    Row(3, 'SLaK-B', 'baselines/cascade_mask_rcnn_slak_b_coco', (800, 1280), SPARSE, 152, 1001, '52.5 / 45.5 AP'),
    Row(3, 'ConvNeXt-B', 'baselines/cascade_mask_rcnn_convnext_b_coco', (800, 1280), 1.0, 146, 964, '52.7 / 45.6 AP'),
    Row(3, 'PeLK-B', 'cascade_mask_rcnn_pelk_b_coco', (800, 1280), SPARSE, 147, 1028, '52.9 / 45.9 AP'),
    Row(3, 'PeLK-B-101', 'cascade_mask_rcnn_pelk_b101_coco', (800, 1280), SPARSE, 147, 1127, '53.1 / 46.1 AP'),
    Row(4, 'Swin-T', 'baselines/swin_t_in1k', (224, 224), 1.0, 28, 4.5, '81.3 top-1'),
    Row(4, 'T2T-ViTt-14', None, (224, 224), 1.0, 22, 6.1, '81.7 top-1'),
    Row(4, 'PerViT-S', None, (224, 224), 1.0, 21, 4.4, '82.1 top-1'),
    Row(4, 'ConvNeXt-T', 'baselines/convnext_t_in1k', (224, 224), 1.0, 29, 4.5, '82.1 top-1'),
    Row(4, 'PeLK-T', 'pelk_t_in1k', (224, 224), SPARSE, 29, 5.6, '82.6 top-1'),
    Row(4, 'PVT-Large', None, (224, 224), 1.0, 61, 9.8, '81.7 top-1'),
    Row(4, 'T2T-ViTt-19', None, (224, 224), 1.0, 39, 9.8, '82.4 top-1'),
    Row(4, 'PerViT-M', None, (224, 224), 1.0, 44, 9.0, '82.9 top-1'),
    Row(4, 'Swin-S', 'baselines/swin_s_in1k', (224, 224), 1.0, 50, 8.7, '83.0 top-1'),
    Row(4, 'ConvNeXt-S', 'baselines/convnext_s_in1k', (224, 224), 1.0, 50, 8.7, '83.1 top-1'),
    Row(4, 'PeLK-S', 'pelk_s_in1k', (224, 224), SPARSE, 50, 10.7, '83.9 top-1'),
    Row(4, 'DeiT-B/16', None, (224, 224), 1.0, 87, 17.6, '81.8 top-1'),
    Row(4, 'RepLKNet-31B', 'baselines/replknet_b_in1k', (224, 224), 1.0, 79, 15.3, '83.5 top-1'),
    Row(4, 'Swin-B', 'baselines/swin_b_in1k', (224, 224), 1.0, 88, 15.4, '83.5 top-1'),
    Row(4, 'ConvNeXt-B', 'baselines/convnext_b_in1k', (224, 224), 1.0, 89, 15.4, '83.8 top-1'),
    Row(4, 'SLaK-B', 'baselines/slak_b_in1k', (224, 224), SPARSE, 95, 17.1, '84.0 top-1'),
    Row(4, 'PeLK-B', 'pelk_b_in1k', (224, 224), SPARSE, 89, 18.3, '84.2 top-1'),
    Row(4, 'ViT-B/16', None, (384, 384), 1.0, 87, 55.5, '77.9 top-1'),
    Row(4, 'DeiT-B/16', None, (384, 384), 1.0, 87, 55.4, '83.1 top-1'),
    Row(4, 'Swin-B', 'baselines/swin_b_in1k_384', (384, 384), 1.0, 88, 47.1, '84.5 top-1'),
    Row(4, 'RepLKNet-31B', 'baselines/replknet_b_in1k_384', (384, 384), 1.0, 79, 45.1, '84.8 top-1'),
    Row(4, 'ConvNeXt-B', 'baselines/convnext_b_in1k_384', (384, 384), 1.0, 89, 45.0, '85.1 top-1'),
    Row(4, 'SLaK-B', 'baselines/slak_b_in1k_384', (384, 384), SPARSE, 95, 50.3, '85.5 top-1'),
    Row(4, 'PeLK-B', 'pelk_b_in1k_384', (384, 384), SPARSE, 89, 54.0, '85.6 top-1'),
    Row(4, 'PeLK-B-101', 'pelk_b101_in1k_384', (384, 384), SPARSE, 90, 68.3, '85.8 top-1'),
]
# The reasons why rows differ from the paper by more than rounding, by table, method, and input size.
EXPLANATIONS = {
    (2, 'RepLKNet-B', '512x2048'): "RepLKNet's own figure; it fits the model without the auxiliary head",
    (4, 'PeLK-T', '224x224'): 'without one of the 51x51 convolutions of stage 1, 5.600',
    (4, 'PeLK-S', '224x224'): 'without one of the 51x51 convolutions of stage 1, 10.692',
}


def explanation(table: int, method: str, size: str) -> str:
    """Return the reason why our count of a row differs from the paper, or an empty string."""
    return EXPLANATIONS.get((table, method, size), '')


# Table 5: half grid of a 33x33 kernel, parameter ratio, top-1 accuracy.
TABLE5 = [
    ((1,) * 17, 1.00, 81.4),
    ((2,) * 8 + (1,), 0.27, 81.0),
    ((2,) * 7 + (1,) * 3, 0.33, 81.4),
    ((4, 4, 4, 2, 1, 1, 1), 0.16, 81.3),
    ((8, 4, 2, 1, 1, 1), 0.11, 81.4),
    ((1, 1, 2, 4, 8, 1), 0.11, 80.5),
]
# Table 6: center size of a 51x51 kernel, half grid, the center's share of the area in percent, top-1 accuracy.
TABLE6 = [
    (1, (11, 8, 4, 2, 1), 0.04, 80.8),
    (3, (10, 8, 4, 2, 1, 1), 0.35, 81.1),
    (5, (9, 8, 4, 2, 1, 1, 1), 0.96, 81.6),
    (7, (8, 8, 4, 2, 1, 1, 1, 1), 1.88, 81.6),
]
# Fig. 2: growth of the parameters of a convolution from kernel size 7 to 51, as a factor.
FIG2 = dict(dense=53.1, stripe=7.3)
# Fig. 5: shares of the backbone's multiply-adds, for PeLK-T in UperNet at 2048x512.
FIG5 = {'large kernels': 0.25, 'h': 0.0005}
# Table 8: images per second on an A100, in float32 at 224x224 pixels.
TABLE8 = {'SLaK-T': 754, 'PeLK-T': 1138, 'PeLK-101-T': 1077}
