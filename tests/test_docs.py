"""The documentation: it builds, its links lead somewhere, and what it names exists."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import yaml
from conftest import CONFIGS, ROOT

DOCS = ROOT / 'docs'
PAGES = [ROOT / 'README.md', *sorted(DOCS.rglob('*.md'))]
FENCED = re.compile(r'^```.*?^```', re.DOTALL | re.MULTILINE)
pages = pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.mark.skipif(not find_spec('material'), reason='needs mkdocs-material (pip install mkdocs-material)')
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'index.html').exists()
    loaded = re.compile(r'<(?:script|img|iframe)[^>]+src="?https?:|<link[^>]+href="?https?:')
    for page in tmp_path.rglob('*.html'):
        assert not loaded.search(page.read_text()), f'{page.name} loads something from elsewhere'


def anchors(page):
    """As a code host makes them from a page's headings."""
    headings = re.findall(r'^#+ (.*)', FENCED.sub('', page.read_text()), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pages
def test_links(page):
    text = re.sub(r'`[^`\n]*`', '', FENCED.sub('', page.read_text()))
    for link in re.findall(r'\]\(([^)\s]+)', text):
        if re.match(r'\w+:', link):
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert page.parent == ROOT or target.is_relative_to(DOCS), f'{link} leaves docs/'
        assert not anchor or anchor in anchors(target), link


@pages
def test_files_named(page):
    names = re.findall(r'(?<![\w/.])((?:configs|mmpelk|tests|tools)/[\w/]+\.(?:py|sh))\b', page.read_text())
    assert not [name for name in names if not (ROOT / name).exists()]


def test_model_index():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    (metafile,) = (yaml.safe_load((ROOT / path).read_text()) for path in index['Import'])
    assert [collection['Name'] for collection in metafile['Collections']] == ['PeLK']
    models = {model['Name']: model for model in metafile['Models']}
    assert len(models) == len(metafile['Models'])
    assert set(models) == {path.stem for path in CONFIGS.glob('*.py')}
    counted = {row['config']: row for row in json.loads((DOCS / 'complexity/complexity.json').read_text())}
    for name, model in models.items():
        assert model['In Collection'] == 'PeLK' and model['Config'] == f'configs/{name}.py'
        assert 'Results' not in model and 'Weights' not in model  # for models that were trained here
        data, row = model['Metadata'], counted[re.sub(r'_120e$|_1x', '', name)]
        assert data['Input Size'] == row['size']
        assert data['FLOPs'] == round(row['gmacs_ours'] * 1e9) and data['Parameters'] == round(row['params_ours'] * 1e6)
        metrics = [value for result in data.get('Paper Results', []) for value in result['Metrics'].values()]
        printed = [float(value) for value in re.findall(r'\d+\.\d+', row['quality'])]
        assert metrics == (printed if name == row['config'] else [])
