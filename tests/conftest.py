"""Fixtures and helpers for all tests: small datasets, and functions that run the tools as a user does."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tool_process
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # For the fixture ``interpreted``. Triton reads the variable when it is imported, and torch may import Triton at any time.
    with pytest.MonkeyPatch.context() as patch, suppress(ImportError):
        patch.setenv('TRITON_INTERPRET', '1')
        import triton  # noqa: F401

from mmpelk.utils.torchvision_compat import declare_missing_operators

declare_missing_operators()  # as the tools do

# On failure, hypothesis prints a line that reproduces the example. In CI the examples are the same in every run.
settings.register_profile('default', deadline=None, print_blob=True)
settings.register_profile('ci', deadline=None, print_blob=True, derandomize=True)
settings.load_profile('ci' if os.environ.get('CI') else 'default')

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
TOOLS = ROOT / 'tools'
LONG_FILES = (
    'test_distributed', 'test_detection', 'test_segmentation', 'test_classification', 'test_triton_resources', 'test_gpu_compilation',
    'test_gpu_tool', 'test_deployment',
)  # fmt: skip
COCO_ID_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take minutes first, so that no process has to run one of them alone at the end."""
    items.sort(key=lambda item: (item.path.stem not in LONG_FILES, item.path.parent.name != 'tools'))


@pytest.fixture(autouse=True)
def isolated():
    """Start each test with the same seed, and with mmengine and torch in the state after ``import mmpelk``.

    A runner sets the default scope, and OneDL's mmengine removes the types that mmpelk allows in checkpoints after its own loads.
    """
    torch.manual_seed(0)
    if registry := sys.modules.get('mmengine.registry'):
        registry.DefaultScope._instance_dict.clear()
        if checkpoints := sys.modules.get('mmpelk.checkpoints'):
            checkpoints.allow_mmengine_types()


@pytest.fixture(scope='module')
def interpreted():
    """Make Triton interpret our kernels if there is no GPU. The kernels are imported on first use."""
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setenv('TRITON_INTERPRET', '1')
        yield


@pytest.fixture(scope='session')
def digit_scenes(tmp_path_factory) -> Path:
    """Return a folder that contains data/digit_scenes with 16 training and 4 validation scenes."""
    from mmpelk.datasets import make_digit_scenes

    home = tmp_path_factory.mktemp('digits')
    make_digit_scenes(home / 'data/digit_scenes', 16, 4)
    return home


@pytest.fixture(scope='session')
def coco(tmp_path_factory):
    """Return a folder with data/coco: 80 categories with COCO's gaps in the ids, a crowd, and an image without annotations.

    The images are long and narrow, so that they stay small after resizing to COCO's sizes.
    """
    import cv2
    from mmdet.datasets import CocoDataset

    home = tmp_path_factory.mktemp('coco')
    (home / 'data/coco/annotations').mkdir(parents=True)
    ids = [i for i in range(1, 91) if i not in COCO_ID_GAPS]
    categories = [dict(id=i, name=name) for i, name in zip(ids, CocoDataset.METAINFO['classes'], strict=True)]
    for split, count in (('train2017', 3), ('val2017', 2)):
        (home / 'data/coco' / split).mkdir()
        images, annotations = [], []
        for index in range(count):
            image = np.random.default_rng(index).integers(0, 60, (40, 400, 3), dtype=np.uint8)
            images.append(dict(id=100 + index, file_name=f'{index:012d}.jpg', height=40, width=400))
            for left in (20, 150, 280) if index < count - 1 or split == 'val2017' else ():  # the last training image stays empty
                image[5:35, left : left + 60] = 220
                polygon = [left, 5, left + 60, 5, left + 60, 35, left, 35]
                common = dict(id=len(annotations) + 1, image_id=100 + index, area=1800, bbox=[left, 5, 60, 30])
                crowd = left == 280
                mask = dict(size=[40, 400], counts=[left * 40, 60 * 40, (340 - left) * 40]) if crowd else [polygon]
                annotations.append(dict(common, category_id=90 if crowd else 13, iscrowd=int(crowd), segmentation=mask))
            cv2.imwrite(str(home / 'data/coco' / split / images[-1]['file_name']), image)
        text = json.dumps(dict(images=images, annotations=annotations, categories=categories))
        (home / f'data/coco/annotations/instances_{split}.json').write_text(text)
    return home


@pytest.fixture(scope='session')
def imagenet(tmp_path_factory) -> Path:
    """Return a folder with data/imagenet in the flat layout: 4 training and 2 validation images."""
    import cv2

    home = tmp_path_factory.mktemp('imagenet')
    for split, count in (('train', 4), ('val', 2)):
        (home / 'data/imagenet' / split).mkdir(parents=True)
        (home / 'data/imagenet/meta').mkdir(exist_ok=True)
        for index in range(count):
            image = np.random.default_rng(index).integers(0, 255, (250, 300 - index, 3), dtype=np.uint8)
            cv2.imwrite(str(home / f'data/imagenet/{split}/{index}.JPEG'), image)
        lines = [f'{index}.JPEG {100 * index}' for index in range(count)]
        (home / f'data/imagenet/meta/{split}.txt').write_text('\n'.join(lines))
    return home


def save_untrained(config: Path, checkpoint: Path) -> None:
    """Save a checkpoint of a config's model with random weights and statistics, and names for 12 classes."""
    from mmengine.registry import MODELS, init_default_scope

    from mmpelk.engine.config import read_config

    cfg = read_config(str(config))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    names = dict(classes=[f'class {i}' for i in range(12)], palette=[[20 * i, 255 - 20 * i, 90] for i in range(12)])
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=names)), checkpoint)


@pytest.fixture
def run_tool(tmp_path):
    """Run a tool in a separate process in one of the test's folders, and return its output."""

    def run(tool: str, *args: object, cwd: Path = tmp_path) -> str:
        code, output = tool_process.run(TOOLS / tool, list(map(str, args)), cwd, tool_env(), 600)
        assert code == 0, output[-6000:]
        return output

    return run


def free_port() -> int:
    """A port of this machine that no server uses."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def tool_env() -> dict[str, str]:
    return {**os.environ, 'PYTHONPATH': str(ROOT), 'MPLBACKEND': 'Agg', 'OMP_NUM_THREADS': str(torch.get_num_threads())}


@pytest.fixture
def run_main(monkeypatch, capfd):
    """Run the main function of a tool in this process, where a test can patch the package, and return what it printed."""

    def run(tool: str, *args: object) -> str:
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        runpy.run_path(str(TOOLS / tool))['main']()
        return capfd.readouterr().out

    return run


@pytest.fixture
def fail_tool(monkeypatch, capfd):
    """Run a tool that must fail in this process, and return its one-line error message."""

    def run(tool: str, *args: object, cwd: Path) -> str:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOLS / tool), run_name='__main__')
        assert stop.value.code == 1
        last = capfd.readouterr().err.strip().splitlines()[-1]
        assert last.startswith('error: '), last
        return last

    return run


# The process kills itself when the n-th file has been written but has not yet replaced the previous one.
KILLED = """
import os, runpy, signal, sys
sync, calls = os.fsync, []
def fsync(file):
    sync(file)
    calls.append(file)
    if len(calls) == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
sys.argv = ['train.py', {config!r}, '--work-dir', {work_dir!r}]
runpy.run_path({tool!r}, run_name='__main__')
"""


def train_until_killed(config: str, work_dir: Path, count: int, cwd: Path) -> None:
    """Train with a config until the process kills itself while it writes the ``count``-th file."""
    script = KILLED.format(count=count, config=config, work_dir=str(work_dir), tool=str(TOOLS / 'train.py'))
    result = subprocess.run([sys.executable, '-c', script], cwd=cwd, env=tool_env(), capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr[-3000:]


@pytest.fixture
def safe_io():
    """Make mmengine read checkpoints safely and write files atomically during the test."""
    from mmengine.fileio.backends.registry_utils import backends, prefix_to_backends
    from mmengine.runner.checkpoint import CheckpointLoader

    from mmpelk.checkpoints import install_safe_io

    tables = CheckpointLoader._schemes, backends, prefix_to_backends
    before = [dict(table) for table in tables]
    install_safe_io()
    yield
    for table, items in zip(tables, before, strict=True):
        table.clear()
        table.update(items)
