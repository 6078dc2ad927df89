import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CCompilerError

HERE = Path(__file__).parent
VERSION = next(line.split("'")[1] for line in (HERE / 'mmpelk/version.py').read_text().splitlines() if '__version__' in line)

# Choose one of the two OpenMMLab distributions. Both install the same modules, so never install both. The lower bounds are tested.
COMMON = ['safetensors>=0.4', 'torchvision>=0.16']  # mmpretrain imports torchvision
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
    'ftfy',  # mmsegmentation imports these two but does not require them
    'regex',
    'setuptools<81',  # for pkg_resources
]
# One extra for each purpose; the tests need all of them. tools/setup_env.sh knows these names.
DEMO = ['matplotlib>=3.6', 'pillow>=9.2', 'scikit-learn>=1.3']  # the embedded datasets, and pictures
EXPORT = ['onnx>=1.18', 'onnxruntime>=1.20', 'onnxscript>=0.5']  # tools/export.py, tools/onnx_demo.py
APP = ['gradio>=6,<7']  # tools/demo_app.py
DOCS = ['mkdocs-material>=9.6']  # make docs
DEV = [  # make test, make lint
    'build>=1',
    'hypothesis>=6',
    'playwright>=1.40',
    'pre-commit>=3',
    'pytest>=8',
    'pytest-xdist>=3.5',
    'ruff>=0.13,<1',
    'timm>=1.0.20',  # DINOv3's ConvNeXts
]
# CUDA builds of torch install their own Triton. On CPUs the tests interpret its kernels. It has wheels for this platform only.
TRITON = ["triton>=3.7; sys_platform == 'linux' and platform_machine == 'x86_64'"]

# A plain C++ library behind a C interface, which mmpelk/ops/backends/native loads. It is optional: without it, the operator uses its
# other backends. Instruction sets are selected at run time, so no flag depends on the machine.
SOURCES = 'mmpelk/ops/backends/native'
OPENMP = ['-fopenmp']
NATIVE = Extension(
    'mmpelk.ops.backends.native._native',
    sources=sorted(path.relative_to(HERE).as_posix() for path in HERE.glob(f'{SOURCES}/*.cpp')),
    depends=sorted(path.relative_to(HERE).as_posix() for path in HERE.glob(f'{SOURCES}/*.h')),
    extra_compile_args=['-O3', '-std=c++17', '-ffp-contract=fast', '-g0', '-pthread', *OPENMP],
    extra_link_args=['-pthread', *OPENMP],
    language='c++',
    optional=True,
)


class BuildNative(build_ext):
    """Build with OpenMP, or without it if the compiler does not support it, such as on macOS. The library then starts its own threads."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except CCompilerError:
            ext.extra_compile_args = [flag for flag in ext.extra_compile_args if flag not in OPENMP]
            ext.extra_link_args = [flag for flag in ext.extra_link_args if flag not in OPENMP]
            super().build_extension(ext)


class WheelForAllPythons(bdist_wheel):
    """Tag the wheel for every Python 3 on this platform, because the library does not use Python."""

    def get_tag(self):
        return 'py3', 'none', super().get_tag()[2]


class BuildWithMim(build_py):
    """Copy configs, tools, and model-index.yml to where OpenMMLab's mim looks for them. mim does not support editable installs."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib, 'mmpelk/.mim')
        shutil.rmtree(mim, ignore_errors=True)  # of an earlier build
        for name in ('configs', 'tools'):
            if (HERE / name).is_dir():  # the package also builds without them
                shutil.copytree(HERE / name, mim / name, ignore=shutil.ignore_patterns('__pycache__'))
        if (HERE / 'model-index.yml').is_file():
            shutil.copy(HERE / 'model-index.yml', mim)


setup(
    name='mmpelk',
    version=VERSION,
    description='PeLK backbones with peripheral convolutions of 101x101 and larger, for OpenMMLab',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    author='The mmpelk authors',
    keywords=['PeLK', 'peripheral convolution', 'large kernels', 'backbone', 'OpenMMLab', 'semantic segmentation'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: C++',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in range(10, 14)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmpelk', 'mmpelk.*']),
    ext_modules=[NATIVE],
    cmdclass=dict(bdist_wheel=WheelForAllPythons, build_ext=BuildNative, build_py=BuildWithMim),
    python_requires='>=3.10',
    install_requires=['torch>=2.1'],
    extras_require={
        'onedl': ONEDL,
        'openmmlab': OPENMMLAB,
        'demo': DEMO,
        'export': EXPORT,
        'app': APP,
        'docs': DOCS,
        'dev': DEV,
        'triton': TRITON,
    },
)
