"""The printed numbers agree with the configs and the sharing grids."""

from conftest import CONFIGS

from mmpelk.analysis import paper
from mmpelk.ops import SharingGrid


def test_every_row_has_its_config_and_every_explanation_its_row():
    for row in paper.ROWS:
        assert row.config is None or (CONFIGS / f'{row.config}.py').exists()
    rows = {(row.table, row.method, f'{row.size[0]}x{row.size[1]}') for row in paper.ROWS}
    assert set(paper.EXPLANATIONS) <= rows


def test_ratios_of_tables_5_and_6_and_fig_2_to_the_printed_digit():
    for half, ratio, _ in paper.TABLE5:
        grid = SharingGrid.from_half(half)
        assert grid.kernel_size == 33 and round((grid.weight_size / 33) ** 2, 2) == ratio
    for center, half, percent, _ in paper.TABLE6:
        assert SharingGrid.peripheral(51, center).half == half and round(100 * center**2 / 51**2, 2) == percent
    assert round(51**2 / 7**2, 1) == paper.FIG2['dense'] and round(51 * 5 / (7 * 5), 1) == paper.FIG2['stripe']
