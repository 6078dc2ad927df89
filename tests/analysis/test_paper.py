"""The printed numbers agree with the configs and the sharing grids."""

import json

from conftest import CONFIGS, ROOT
from mmengine.config import Config

from mmpelk.analysis import paper
from mmpelk.ops import SharingGrid


def test_every_row_has_its_config_and_every_explanation_its_row():
    for row in paper.ROWS:
        assert row.config is None or (CONFIGS / f'{row.config}.py').exists()
    rows = {(row.table, row.method, f'{row.size[0]}x{row.size[1]}') for row in paper.ROWS}
    assert set(paper.EXPLANATIONS) <= rows


def test_rows_of_table_4_have_configs_of_their_input_size():
    rows = [row for row in paper.ROWS if row.table == 4 and row.config]
    assert len(rows) == 17
    for row in rows:
        cfg = Config.fromfile(CONFIGS / f'{row.config}.py')
        (crop,) = (step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomResizedCrop')
        assert (crop.scale, crop.scale) == row.size, row.config


def test_table_4_without_one_convolution():
    """Without one 51x51 convolution of stage 1 (46 channels, 56x56), the counts of PeLK-T and -S equal the printed digits."""
    counted = {row['config']: row['gmacs_ours'] for row in json.loads((ROOT / 'docs/complexity/complexity.json').read_text())}
    convolution = 0.6 * 46 * 56**2 * 51**2 / 1e9
    for config, printed, exact in (('pelk_t_in1k', 5.6, 5.600), ('pelk_s_in1k', 10.7, 10.692)):
        assert round(counted[config], 1) != printed and round(counted[config] - convolution, 1) == printed
        assert round(counted[config] - convolution, 3) == exact


def test_ratios_of_tables_5_and_6_and_fig_2_to_the_printed_digit():
    for half, ratio, _ in paper.TABLE5:
        grid = SharingGrid.from_half(half)
        assert grid.kernel_size == 33 and round((grid.weight_size / 33) ** 2, 2) == ratio
    for center, half, percent, _ in paper.TABLE6:
        assert SharingGrid.peripheral(51, center).half == half and round(100 * center**2 / 51**2, 2) == percent
    assert round(51**2 / 7**2, 1) == paper.FIG2['dense'] and round(51 * 5 / (7 * 5), 1) == paper.FIG2['stripe']
