import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent
VERSION = next(line.split("'")[1] for line in (HERE / 'mmpelk/__init__.py').read_text().splitlines() if '__version__' in line)

# Either OpenMMLab distribution, never both in one environment: they install the same modules. Tested with the lower bounds.
COMMON = ['safetensors>=0.4', 'torchvision>=0.19']  # mmpretrain imports torchvision
ONEDL = [
    *COMMON,
    'onedl-mmengine>=0.10.12,<0.11',
    'onedl-mmcv>=2.3.6,<2.4',
    'onedl-mmsegmentation>=1.4.2,<1.5',
    'onedl-mmdetection>=3.5.1,<3.6',
    'onedl-mmpretrain>=1.3.6,<1.4',
]
OPENMMLAB = [
    *COMMON,
    'mmengine>=0.10.7,<0.11',
    'mmcv>=2.1.0,<2.2',
    'mmsegmentation>=1.2.2,<1.3',
    'mmdet>=3.3.0,<3.4',
    'mmpretrain>=1.2.0,<1.3',
    'ftfy',  # mmsegmentation imports these two without requiring them
    'regex',
    'setuptools<81',  # for pkg_resources
]
DEMO = ['matplotlib>=3.6', 'pillow>=9.2', 'scikit-learn>=1.3']

# CUDA builds of torch bring their own; the tests interpret it on CPUs. There are no wheels for other systems.
TRITON = "triton>=3.7; sys_platform == 'linux' and platform_machine == 'x86_64'"

# A plain C++ library behind a C interface (mmpelk/ops/backends/native.py loads it). Optional: where it does not compile, the operator's
# other backends serve. Instruction sets are chosen at run time, so no flag names the machine.
SOURCES = 'mmpelk/ops/csrc'
NATIVE = Extension(
    'mmpelk.ops._native',
    sources=[f'{SOURCES}/{name}.cpp' for name in ('native', 'portable', 'avx2', 'avx512')],
    depends=[f'{SOURCES}/{name}.h' for name in ('plan', 'vec', 'channels', 'sums', 'kernel')],
    extra_compile_args=['-O3', '-std=c++17', '-ffp-contract=fast', '-g0', *(['-fopenmp'] if sys.platform == 'linux' else [])],
    extra_link_args=['-fopenmp'] if sys.platform == 'linux' else [],
    language='c++',
    optional=True,
)

setup(
    name='mmpelk',
    version=VERSION,
    description='PeLK backbones with peripheral convolutions up to 101x101 and more, for OpenMMLab',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmpelk', 'mmpelk.*']),
    ext_modules=[NATIVE],
    python_requires='>=3.10',
    install_requires=['torch>=2.4'],  # tested with 2.13.0
    extras_require={
        'onedl': ONEDL,
        'openmmlab': OPENMMLAB,
        'demo': DEMO,
        'dev': [*DEMO, 'hypothesis>=6', 'pre-commit>=3', 'pytest>=8', 'ruff>=0.9,<1', TRITON],
    },
)
