"""The wheel and the source distribution have the expected content, and an installed wheel works with OpenMMLab outside the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import mmpelk

COMPILER = any(map(shutil.which, ('c++', 'g++', 'clang++')))
SDIST = 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])'

USER_CONFIG = """
custom_imports = dict(imports=['mmpelk'])
model = dict(type='PeLK', arch='atto', kernel_sizes=(101, 69, 67, 13), out_indices=(3,))
"""
USER_SCRIPT = """
import importlib.metadata
import sys

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

model = MODELS.build(Config.fromfile('user_config.py').model)
print(tuple(model(torch.randn(1, 3, 64, 64))[0].shape))
import mmpelk
from mmpelk.ops import available_backends
print(mmpelk.__file__)
print(importlib.metadata.version('mmpelk'), mmpelk.__version__)
print('native' in available_backends())
"""


def run(*command, cwd, **variables):
    """Run a command without this repository on its path and without a package index, and return its output."""
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'} | dict(PIP_NO_INDEX='1', **variables)
    result = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Return a copy of the files that git tracks or would add, without build outputs."""
    copy = tmp_path_factory.mktemp('packaging') / 'source'
    names = run('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard', cwd=ROOT).split('\0')
    for name in names:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


def build_wheel(source, out, **variables):
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', out, source]
    run(*command, cwd=out.parent, **variables)
    return next(out.glob('mmpelk-*.whl'))


@pytest.fixture(scope='module')
def wheel(source):
    return build_wheel(source, source.parent / 'wheel')


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


def test_wheel(source, wheel):
    assert wheel.name.startswith(f'mmpelk-{mmpelk.__version__}-py3-none-')
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        index = yaml.safe_load(archive.read('mmpelk/.mim/model-index.yml'))
        models = [model for name in index['Import'] for model in yaml.safe_load(archive.read(f'mmpelk/.mim/{name}'))['Models']]
    assert models and {f'mmpelk/.mim/{model["Config"]}' for model in models} <= names
    for folder in ('configs', 'tools'):
        prefix = f'mmpelk/.mim/{folder}/'
        assert {name.removeprefix(prefix) for name in names if name.startswith(prefix)} == files_of(source / folder)
    modules = {f'mmpelk/{name}' for name in files_of(source / 'mmpelk') if name.endswith('.py')}
    assert {name for name in names if name.endswith('.py') and '/.mim/' not in name} == modules
    assert {name.split('/')[0] for name in names} == {'mmpelk', f'mmpelk-{mmpelk.__version__}.dist-info'}
    assert not [name for name in names if name.endswith(('.cpp', '.h', '.pyc'))]
    assert any(name.endswith('/LICENSE') for name in names)
    assert (f'mmpelk/ops/backends/native/_native{sysconfig.get_config_var("EXT_SUFFIX")}' in names) == COMPILER


def test_source_distribution(source, tmp_path):
    run(sys.executable, '-c', SDIST, tmp_path, cwd=source)
    with tarfile.open(next(tmp_path.glob('mmpelk-*.tar.gz'))) as archive:
        names = {member.name.partition('/')[2] for member in archive if member.isfile()}
    for folder in ('configs', 'tools', 'mmpelk'):
        assert {f'{folder}/{name}' for name in files_of(source / folder)} <= names
    assert {'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'CHANGELOG.md', 'model-index.yml'} <= names
    assert 'mmpelk/ops/backends/native/kernel.h' in names
    assert not [name for name in names if name.startswith('tests/')]


def install(wheel, folder):
    """Install a wheel into a new environment. Return its Python and its folder of packages."""
    venv = folder / 'venv'
    run(sys.executable, '-m', 'venv', '--without-pip', venv, cwd=folder)
    python = venv / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', wheel, cwd=folder)
    # This environment's OpenMMLab, but not its editable mmpelk: .pth files of a folder that a .pth file names are not read.
    site = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', cwd=folder).strip())
    (site / 'openmmlab.pth').write_text('\n'.join({sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}))
    return python, site


def use(python, site, folder):
    """Run a script with a config in a user's folder, and return whether the native backend is available."""
    folder.mkdir()
    (folder / 'user_config.py').write_text(USER_CONFIG)
    (folder / 'user_script.py').write_text(USER_SCRIPT)
    shape, where, versions, native = run(python, 'user_script.py', cwd=folder).splitlines()[-4:]
    assert shape == '(1, 416, 2, 2)' and Path(where) == site / 'mmpelk/__init__.py'
    assert versions.split() == [mmpelk.__version__] * 2
    return native == 'True'


def test_an_installed_wheel(wheel, tmp_path):
    python, site = install(wheel, tmp_path)
    outside = tmp_path / 'outside'
    assert use(python, site, outside) == COMPILER
    assert '--pretrained' in run(python, site / 'mmpelk/.mim/tools/train.py', '--help', cwd=outside)


def test_a_wheel_that_was_built_without_a_compiler(source, tmp_path):
    shutil.copytree(source, tmp_path / 'source', ignore=shutil.ignore_patterns('build', '*.egg-info'))
    python, site = install(build_wheel(tmp_path / 'source', tmp_path / 'wheel', CC='false', CXX='false'), tmp_path)
    assert not use(python, site, tmp_path / 'outside')
