"""The documentation: it builds, its links and names are valid, and its snippets and commands work."""

import argparse
import ast
import json
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIGS, ROOT, TOOLS, save_untrained
from mmengine.config import Config

DOCS = ROOT / 'docs'
README = ROOT / 'README.md'
PAGES = [README, *sorted(DOCS.rglob('*.md'))]
FENCED = re.compile(r'^```.*?^```', re.DOTALL | re.MULTILINE)
pages = pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def snippets(language):
    """Return a parameter for each fenced block of a language on all pages."""
    blocks = [
        (f'{page.relative_to(ROOT)}-{number}', block)
        for page in PAGES
        for number, block in enumerate(re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), re.DOTALL | re.MULTILINE))
    ]
    return [pytest.param(block, id=name) for name, block in blocks]


@pytest.mark.skipif(not find_spec('material'), reason='needs mkdocs-material (pip install mkdocs-material)')
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'index.html').exists()
    loaded = re.compile(r'<(?:script|img|iframe)[^>]+src="?https?:|<link[^>]+href="?https?:')
    for page in tmp_path.rglob('*.html'):
        assert not loaded.search(page.read_text()), f'{page.name} loads something from another site'


def anchors(page):
    """Return the anchors that a code host makes from the headings of a page."""
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
def test_named_files_exist(page):
    names = re.findall(r'(?<![\w/.])((?:configs|mmpelk|tests|tools)/[\w/]+\.(?:py|sh))\b', page.read_text())
    assert not [name for name in names if not (ROOT / name).exists()]


@pages
def test_named_folders_exist_and_patterns_match(page):
    names = re.findall(r'`((?:configs|mmpelk|tests|tools)/(?!\.mim)[\w/*.]*)`', page.read_text())
    assert not [name for name in names if not any(ROOT.glob(name))]


def test_the_first_screen_of_the_readme():
    """The first 45 lines answer the first questions: what, parameters, weights, GPU, torch, install, config, speed, ConvNeXt."""
    screen = '\n'.join(README.read_text().splitlines()[:45])
    for words in (
        'OpenMMLab',
        '51x51 kernels have 13x13 parameters per channel',
        '101x101 kernels have 17x17',
        'Pretrained weights:** none',
        '<!-- gpu status -->tested on CPUs',
        '**torch:** 2.1 or newer',
        'pip install -e .',
        "type='PeLK'",
        "custom_imports = dict(imports=['mmpelk'])",
        '| 7x7 |',
        'AMD EPYC',
        "type='GrownBackbone'",
        'docs/grow.md',
        '![',
    ):
        assert words in screen, words
    assert "install_requires=['torch>=2.1']" in (ROOT / 'setup.py').read_text()
    environment = (TOOLS / 'setup_env.sh').read_text()
    assert 'All tests run with 2.13.0' in screen and 'TORCH:-2.13.0' in environment


def test_the_speed_table_of_the_readme_has_the_measured_numbers():
    results = json.loads((DOCS / 'benchmarks/op.json').read_text())
    measured = {tuple(row['shape']): row for row in results['milliseconds']}
    rows = re.findall(r'^\| \((\d+), (\d+), (\d+)\) \| (\d+)x\d+ \|(.*)\|$', README.read_text(), re.MULTILINE)
    assert len(rows) == 3
    for *shape, numbers in rows:
        times = measured[tuple(map(int, shape))]
        names = ('F.conv2d', 'auto', '7x7, 8/3 C', '7x7, 8/3 C, channels_last')
        for printed, name in zip(map(float, numbers.split('|')), names, strict=True):
            assert printed == pytest.approx(times[name]['median'], rel=0.02), (shape, name)


class Parsed(Exception):
    """Raised once a tool has parsed its arguments."""


@contextmanager
def only_parsing(monkeypatch):
    """Make the tools stop once their command lines are parsed, so that they run in this process without side effects."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
        patch.setattr('mmpelk.engine.command_line.install_safe_io', lambda: None)
        yield


def commands(page):
    """Return the commands of this project on a page: the lines of its shell blocks, and commands in backticks."""
    text = page.read_text().replace('\\\n', ' ')
    lines = [line for block in re.findall(r'^```bash\n(.*?)^```', text, re.DOTALL | re.MULTILINE) for line in block.splitlines()]
    lines += [' '.join(code.split()) for code in re.findall(r'`([^`]+)`', FENCED.sub('', text))]
    for variable, first in re.findall(r'for (\w+) in (\S+)', text):
        lines = [line.replace(f'${variable}', first) for line in lines]
    return [line.strip() for line in lines if re.match(r'\s*((python|bash) tools/|srun |make \w|pytest |pip install )', line)]


@pages
def test_commands(page, monkeypatch):
    """Tools accept their arguments, and all configs, make targets, tests, and extras exist."""
    found = commands(page)
    written, parsed = (len(re.findall(r'(?:python|bash)\s+tools/', text)) for text in (page.read_text(), '\n'.join(found)))
    assert parsed == written  # none is overlooked
    for command in found:
        words = shlex.split(command, comments=True)
        if 'python' in words[:8] or words[0] == 'bash':
            check_tool(words, command, monkeypatch)
        elif words[0] == 'make':
            assert re.search(rf'^{words[1]}:', (ROOT / 'Makefile').read_text(), re.MULTILINE), command
        elif words[0] == 'pytest':
            check_tests(words[1:], command)
        for extras in re.findall(r'\.\[([\w,]+)\]', command):
            assert set(extras.split(',')) <= extras_of_setup(), command
        for config in re.findall(r'configs/[\w/]+\.py', command):
            assert (ROOT / config).exists(), command


def check_tool(words, command, monkeypatch):
    script, *arguments = words[next(i for i, word in enumerate(words) if word.startswith('tools/')) :]
    assert (ROOT / script).exists(), command
    if script == 'tools/setup_env.sh':
        assert set(arguments[1:]) <= {'onedl', 'openmmlab', '--compiled-ops'} | extras_of_setup(), command
        return
    if script in ('tools/dist_train.sh', 'tools/dist_test.sh'):
        script = script.replace('dist_', '').replace('.sh', '.py')
        processes = arguments.pop(1 if script.endswith('train.py') else 2)
        assert processes.isdigit(), command
    if not arguments:
        return  # the name of the tool alone
    with only_parsing(monkeypatch), monkeypatch.context() as patch:
        patch.setattr(sys, 'argv', [script, *arguments])
        try:
            runpy.run_path(str(ROOT / script), run_name='__main__')
        except Parsed:
            return
        except SystemExit as stop:
            pytest.fail(f'{command}: the tool does not accept these arguments ({stop.code})')
    pytest.fail(f'{command}: the tool parsed nothing')


def check_tests(words, command):
    """Check the paths of a pytest command, and that its -k selects a file or a test."""
    selected = words[words.index('-k') + 1] if '-k' in words else ''
    paths = [ROOT / word for word in words if word.startswith('tests')]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob('test_*.py')))]
    assert all(path.exists() for path in paths), command
    names = [name for file in files for name in (file.name, *re.findall(r'^def (test_\w+)', file.read_text(), re.MULTILINE))]
    assert not paths or any(selected in name for name in names), f'{command} selects no test'


def extras_of_setup():
    calls = [node for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text())) if isinstance(node, ast.keyword)]
    (extras,) = (node.value for node in calls if node.arg == 'extras_require')
    return {key.value for key in extras.keys}


def test_setup_env_knows_the_extras():
    usage = (TOOLS / 'setup_env.sh').read_text()
    (known,) = re.findall(r'^\s+--compiled-ops \| ([\w |]+)\) ;;', usage, re.MULTILINE)
    assert set(known.split(' | ')) | {'onedl', 'openmmlab'} == extras_of_setup()


IN_CONFIG = ('_base_', 'custom_imports', 'custom_hooks', 'model', 'optim_wrapper')


@pytest.fixture
def workspace(code, tmp_path, monkeypatch):
    """Change to a folder with mmseg's configs and the files that the snippets of docs/deployment.md read."""
    import cv2
    import mmseg
    import numpy as np

    (tmp_path / '_base_').symlink_to(Path(mmseg.__file__).parent / '.mim/configs/_base_')
    (tmp_path / 'configs').mkdir()
    for source in Path(mmseg.__file__).parent.glob('.mim/configs/convnext/*.py'):
        (tmp_path / 'configs' / source.name).symlink_to(source)
    monkeypatch.chdir(tmp_path / 'configs')
    (tmp_path / 'configs/configs').symlink_to(CONFIGS)
    if 'checkpoint.pth' not in code:
        return
    save_untrained(CONFIGS / 'demo/upernet_pelk_atto_digits.py', Path('checkpoint.pth'))
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Path('photographs').mkdir()
    for name in ('photographs/a.png', 'street.jpg'):
        cv2.imwrite(name, image)
    video = cv2.VideoWriter('street.mp4', cv2.VideoWriter_fourcc(*'mp4v'), 5, (64, 64))
    for _ in range(2):
        video.write(image)
    video.release()


@pytest.mark.parametrize('code', snippets('python'))
def test_python_snippets(code, workspace, monkeypatch):
    """Config snippets can be built, and their heads accept the channels of the backbone. Other snippets run."""
    if not re.match(rf'({"|".join(IN_CONFIG)}) = ', code):
        monkeypatch.setattr('mmpelk.checkpoints.install_safe_io', lambda: None)  # it would affect later tests
        if 'timm.' in code:  # without a download
            import timm

            create = timm.create_model
            monkeypatch.setattr(timm, 'create_model', lambda name, pretrained: create(name))
        exec(compile(code, 'snippet', 'exec'), {})
        return
    from mmengine.config import Config
    from mmengine.registry import HOOKS

    import mmpelk  # noqa: F401  as custom_imports does

    Path('snippet.py').write_text(code)
    cfg = Config.fromfile('snippet.py', import_custom_modules=False)
    if '_base_ = ' in code:
        assert cfg.custom_imports.imports == ['mmpelk']
    if 'model' in cfg:
        check_channels(cfg.model)
    if 'optim_wrapper' in cfg and 'optim_wrapper = ' in code:
        check_optim_wrapper(cfg.optim_wrapper)
    for hook in cfg.get('custom_hooks', ()):
        HOOKS.build(hook)


def check_channels(model):
    """Run the backbone on the meta device and compare its channels with those that the neck and the heads expect."""
    from mmengine.registry import MODELS

    # OpenMMLab's backbones call Tensor.item() to compute drop path rates, which the meta device does not support.
    with torch.device('meta' if model.backbone.type == 'PeLK' else 'cpu'):
        backbone = MODELS.build(model.backbone).to('meta')
    with torch.device('meta'):
        maps = backbone(torch.empty(2, 3, 64, 64))
    channels = [map.shape[1] for map in maps]
    expected = {name: model[name].in_channels for name in ('decode_head', 'auxiliary_head', 'neck', 'head') if name in model}
    assert expected
    for name, in_channels in expected.items():
        if name in ('decode_head', 'neck'):
            assert list(in_channels) == channels, name
        else:
            assert in_channels == (channels[2] if name == 'auxiliary_head' else channels[-1]), name


def check_optim_wrapper(optim_wrapper):
    """Build the optimizer for a PeLK, and check that layers have different learning rates."""
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import init_default_scope

    from mmpelk.models import PeLK

    theirs = 'LearningRateDecayOptimWrapperConstructor'
    init_default_scope('mmpretrain' if optim_wrapper.constructor == theirs else 'mmseg')
    optim_wrapper.type = 'OptimWrapper'  # AmpOptimWrapper needs a GPU
    optim_wrapper.pop('loss_scale', None)
    model = torch.nn.Module()
    model.backbone = PeLK(arch='atto')
    if optim_wrapper.constructor == theirs:
        model.get_layer_depth = lambda name: model.backbone.get_layer_depth(name, 'backbone.')  # as mmpretrain's classifiers do
    groups = build_optim_wrapper(model, optim_wrapper).optimizer.param_groups
    assert len({round(group['lr'], 9) for group in groups}) > 4
    assert {group['weight_decay'] for group in groups} == {0.0, 0.05}


def counted_here(config):
    """Count a classifier at 224 px that the paper's tables do not list."""
    from mmpelk.analysis.complexity import complexity

    count = complexity(Config.fromfile(CONFIGS / f'{config}.py'), (224, 224), 0.6)
    sizes = dict(size='224x224', gmacs_ours=count.kept_macs / 1e9, params_ours=count.kept_params / 1e6)
    return dict(sizes, config=config, quality='')


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
        config = re.sub(r'_120e$|_1x|_finetune$', '', name)
        data, row = model['Metadata'], counted.get(config) or counted_here(config)
        assert data['Input Size'] == row['size']
        assert data['FLOPs'] == round(row['gmacs_ours'] * 1e9) and data['Parameters'] == round(row['params_ours'] * 1e6)
        metrics = [value for result in data.get('Paper Results', []) for value in result['Metrics'].values()]
        printed = [float(value) for value in re.findall(r'\d+\.\d+', row['quality'])]
        assert metrics == (printed if name == row['config'] else [])


def test_citation():
    """The software and the paper that CITATION.cff and the README name are the same."""
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    paper, readme = citation['preferred-citation'], README.read_text()
    assert citation['version'] == re.search(r"__version__ = '(.*)'", (ROOT / 'mmpelk/version.py').read_text())[1]
    assert f'{{{paper["title"]}}}' in readme
    assert ' and '.join(f'{name["family-names"]}, {name["given-names"]}' for name in paper['authors']) in readme
