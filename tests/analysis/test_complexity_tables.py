"""Counted rows as text, Markdown, CSV, and JSON."""

import csv
import json

import pytest

from mmpelk.analysis import complexity_tables as tables
from mmpelk.analysis import paper
from mmpelk.analysis.complexity import Complexity
from mmpelk.ops import SharingGrid

METHODS = ('PeLK-T', 'PerViT-S')


@pytest.fixture(scope='module')
def rows():
    """Return one counted row with a config and one without."""
    return tables.count_rows([row for row in paper.ROWS if row.table == 4 and row.method in METHODS])


def test_rows(rows):
    vit, pelk = rows
    assert (vit['method'], vit['params_ours'], vit['gmacs_ours'], vit['gmacs_dense']) == ('PerViT-S', None, None, None)
    assert pelk['size'] == '224x224' and pelk['params_ours'] == pytest.approx(pelk['params'], abs=1)
    assert pelk['gmacs_ours'] == pytest.approx(0.6 * pelk['gmacs_dense'])  # the density of Table 4


def test_rows_as_text(rows):
    vit, pelk = tables.rows_as_text(rows).splitlines()[2:]
    assert vit.startswith('Table 4  PerViT-S') and vit.endswith('not built here')
    assert f'{rows[1]["params_ours"]:8.2f}' in pelk
    assert f'{100 * (rows[1]["gmacs_ours"] / 5.6 - 1):+.2f}%' in pelk
    assert pelk.endswith(paper.EXPLANATIONS[4, 'PeLK-T', '224x224'])


def test_written_rows(rows, tmp_path):
    tables.write_rows(rows, tmp_path / 'new')
    assert json.loads((tmp_path / 'new/complexity.json').read_text()) == rows
    with open(tmp_path / 'new/complexity.csv', newline='') as file:
        written = list(csv.DictReader(file))
    assert [row['method'] for row in written] == ['PerViT-S', 'PeLK-T']
    assert float(written[1]['gmacs_ours']) == rows[1]['gmacs_ours'] and written[0]['gmacs_ours'] == ''
    page = (tmp_path / 'new/complexity.md').read_text()
    line = next(line for line in page.splitlines() if line.startswith('| PeLK-T |'))
    assert '`configs/pelk_t_in1k.py`' in line and f'| {rows[1]["gmacs_ours"]:.2f} |' in line and 'not trained' in line
    header = next(line for line in page.splitlines() if line.startswith('| model |'))
    assert header.count('|') == line.count('|')


def test_grids_and_breakdown_as_text():
    text = tables.grids_as_text()
    assert ' 0.11  0.1111  [8, 4, 2, 1, 1, 1]' in text and 'not the default grid' not in text
    assert 'dense   53.1  53.082' in text
    parts = {'stem and downsampling': 10, 'large kernels': 25, 'MLP': 65, 'h': 1, 'small kernels': 2, 'other': 0, 'head': 900}
    line = next(line for line in tables.breakdown_as_text(parts).splitlines() if 'large kernels' in line)
    assert line.split()[2:] == ['25.00%', '25.0000%']


def test_count_as_text():
    lines = tables.count_as_text(Complexity(2_000_000, 1.5e6, 3_000_000_000, 1.8e9, {'MLP': 4_000_000}), 0.6).splitlines()
    assert lines[0].split()[1:3] == ['2.00', 'M,'] and lines[0].endswith('1.50 M')
    assert lines[1].split()[1:3] == ['3.00', 'G,'] and lines[1].endswith('1.80 G')
    assert lines[2].split() == ['MLP', '0.004', 'G']


def test_parameters_by_kernel_size():
    curves = tables.count_parameters_by_kernel_size()
    assert curves['dense'][7] == pytest.approx(28.59, abs=0.01)  # ConvNeXt-T itself
    per_weight = 3 * (96 + 192 + 768) + 9 * 384
    for k in (15, 151):
        assert curves['dense'][k] - curves['dense'][7] == pytest.approx(per_weight * (k**2 - 7**2) / 1e6)
        size = SharingGrid.peripheral(k).weight_size
        assert curves['dense'][k] - curves['peripheral'][k] == pytest.approx(per_weight * (k**2 - size**2) / 1e6)
