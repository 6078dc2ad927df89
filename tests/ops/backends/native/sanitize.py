"""Build the native library with sanitizers and run its cases.

    python tests/ops/backends/native/sanitize.py [plain] [address] [thread] [python]

- ``plain`` runs driver.cpp without a sanitizer.
- ``address`` runs it with AddressSanitizer and UndefinedBehaviorSanitizer, and OpenMP.
- ``thread`` runs it with ThreadSanitizer and std::thread, because ThreadSanitizer does not understand GCC's OpenMP library.
- ``python`` runs test_native.py with a library that is built with AddressSanitizer and UndefinedBehaviorSanitizer.

The default is all but ``plain``. The driver is a program without Python, because Python and torch under ThreadSanitizer report
much that is not ours. Machines without AVX-512 run its code with 16 lanes of other instructions. These files are among the tests
and not in tools/, because tools/ is installed with the package, and the C++ sources are not.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
SOURCES = ROOT / 'mmpelk/ops/backends/native'
COMPILER = os.environ.get('CXX', 'g++')
FLAGS = ['-std=c++17', '-ffp-contract=fast', '-pthread', '-Wall', '-Wextra', '-Werror', '-Wno-psabi']
SANITIZERS = {
    'plain': ['-O2', '-fopenmp'],
    'address': ['-O1', '-g', '-fopenmp', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
    'thread': ['-O1', '-g', '-fsanitize=thread'],
}
# A failed allocation returns null, as without AddressSanitizer. Python and torch leak, so only the driver looks for leaks.
ASAN_OPTIONS = 'allocator_may_return_null=1'


def main(names: list[str]) -> None:
    """Run the named checks, and exit with an error if one fails."""
    for name in names or ['address', 'thread', 'python']:
        with tempfile.TemporaryDirectory() as folder:
            print(f'{name}: ', end='', flush=True)
            if name == 'python':
                run_tests(Path(folder))
            else:
                run_driver(name, Path(folder))


def run_driver(name: str, folder: Path) -> None:
    emulate = [] if has_avx512() else ['-DMMPELK_EMULATE_AVX512']
    build([*SOURCES.glob('*.cpp'), HERE / 'driver.cpp'], folder / 'driver', [*SANITIZERS[name], *emulate])
    run([folder / 'driver'], ASAN_OPTIONS=ASAN_OPTIONS, TSAN_OPTIONS='halt_on_error=1')


def run_tests(folder: Path) -> None:
    """Run the Python tests with a copy of the package, whose library is built with the sanitizers."""
    shutil.copytree(ROOT / 'mmpelk', folder / 'mmpelk', ignore=shutil.ignore_patterns('_native.*', '__pycache__'))
    library = folder / f'mmpelk/ops/backends/native/_native{sysconfig.get_config_var("EXT_SUFFIX")}'
    build(list(SOURCES.glob('*.cpp')), library, [*SANITIZERS['address'], '-fPIC', '-shared'])
    runtimes = [output(COMPILER, f'-print-file-name=lib{name}.so') for name in ('asan', 'ubsan', 'stdc++')]
    # Builds of the library are tested without sanitizers. Under AddressSanitizer, memory limits have no meaning.
    tests = ['-k', 'not installation and not compiler and not memory', '-p', 'no:cacheprovider', '-q']
    run(
        [sys.executable, '-m', 'pytest', HERE.parent / 'test_native.py', *tests],
        cwd=folder,
        LD_PRELOAD=' '.join(runtimes),
        ASAN_OPTIONS=f'{ASAN_OPTIONS}:detect_leaks=0',
        PYTHONPATH=os.pathsep.join([str(folder), *filter(None, [os.environ.get('PYTHONPATH')])]),
    )


def build(sources: list[Path], target: Path, flags: list[str]) -> None:
    objects = [target.parent / f'{source.stem}.o' for source in sources]
    compile_flags = [*FLAGS, *(flag for flag in flags if flag != '-shared')]

    def compile_one(source: Path, object_file: Path) -> None:
        # The driver's loops are not under test, and a sanitizer would make them ten times slower.
        flags = compile_flags if source.parent == SOURCES else [*FLAGS, '-O2']
        subprocess.run([COMPILER, *flags, f'-I{SOURCES}', '-c', source, '-o', object_file], check=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, sources, objects))
    check_symbols(objects)
    subprocess.run([COMPILER, *FLAGS, *flags, *objects, '-o', target], check=True)
    for path in objects:
        path.unlink()


def check_symbols(objects: list[Path]) -> None:
    """Check that the files of instruction sets share no functions, which the linker would take from any of them.

    A machine without AVX-512 would then run a function that is compiled for it.
    """
    for path in objects:
        if path.stem not in ('portable', 'avx2', 'avx512'):
            continue
        lines = output('nm', '-C', '--defined-only', '--extern-only', path).splitlines()
        names = [line.split(maxsplit=2)[2] for line in lines if line.split()[1] not in 'bBdDrRV']
        expected = [f'mmpelk::{path.stem}::instruction_set()']
        if names != expected:
            sys.exit(f'{path.stem}.cpp must define only {expected}, got {names}')


def has_avx512() -> bool:
    info = Path('/proc/cpuinfo')
    return platform.machine() == 'x86_64' and info.exists() and 'avx512dq' in info.read_text()


def output(*command: object) -> str:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout.strip()


def run(command: list[object], cwd: Path | None = None, **env: str) -> None:
    finished = subprocess.run(list(map(str, command)), cwd=cwd, env={**os.environ, **env})
    if finished.returncode:
        sys.exit(f'failed: {" ".join(map(str, command))}')


if __name__ == '__main__':
    main(sys.argv[1:])
