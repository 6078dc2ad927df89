"""Run measurements on a GPU in short, resumable parts.

Each item of :func:`mmpelk.analysis.gpu_measurements.plan` is stored in ``results.json`` as soon as it is done, and ``gpu.md`` is written
again. The items run in a process of their own, because an illegal memory access ends everything in its process. The process is replaced
when it ends early.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from mmpelk.ops import autotune, chosen_backends
from mmpelk.ops.backends import Call
from mmpelk.utils.errors import InputError, first_line
from mmpelk.utils.files import write_atomically

from .gpu_measurements import SMALL, Scale, plan
from .gpu_page import write_page
from .timing import machine

RESULTS, LOG = 'results.json', 'log.txt'
# An item is not started unless this many seconds are left.
MIN_SECONDS = 20
# An item that takes longer is stopped, because it may hang. Steps not named here have the first limit.
MAX_SECONDS, MAX_SECONDS_OF_STEPS = 180, dict(compilation=420, sweep_compilation=420, tests=420, batches=420)
# The exit code after an error that leaves the GPU unusable for the process.
UNUSABLE = 3
# The steps that fill Triton's cache, and the folder of the cache in the folder of the results.
COMPILATION, CACHE = ('compilation', 'sweep_compilation'), 'triton'
CHOICES = 'choices.json'


def read_results(folder: Path) -> dict:
    """Return the results in a folder: the machine, and the result or error of each item of each step.

    Raises:
        InputError: If the file cannot be read.
    """
    path = folder / RESULTS
    if not path.exists():
        return dict(machine=None, running=None, interrupted=[], steps={})
    try:
        results = json.loads(path.read_text())
        if not isinstance(results, dict) or not isinstance(results.get('steps'), dict):
            raise ValueError("it has no 'steps'")
        return results
    except ValueError as error:
        raise InputError(f'cannot read {path}: {first_line(error)}; remove it, or choose another folder') from error


class TookTooLong(Exception):
    """An item has taken longer than its step allows."""


def run_session(
    folder: Path, device: str, minutes: float, steps: Sequence[str] | None = None, small: bool = False, retry: bool = False
) -> list[str]:
    """Run what is missing in a folder of results, for a limited time.

    Args:
        folder: Folder of the results. Call again with the same folder to continue.
        device: Device to measure.
        minutes: When to stop.
        steps: Names of the steps to run; all by default.
        small: Whether to use tiny sizes, to test the session itself.
        retry: Whether to repeat items that failed.

    Returns:
        The items that are still missing.

    Raises:
        InputError: If a step is unknown, or the folder has results of another machine, of another type of device, or with other sizes.
    """
    deadline = time.monotonic() + 60 * minutes
    results, scale = read_results(folder), SMALL if small else Scale()
    todo = plan(device, scale)
    unknown = [step for step in steps or () if step not in todo]
    if unknown:
        raise InputError(f'--steps must be among {list(todo)} on {device}, got {unknown[0]!r}')
    where = {key: value for key, value in machine(device).items() if key != 'date'}
    before = {key: value for key, value in (results['machine'] or where).items() if key != 'date'}
    if before != where:
        raise InputError(f'{folder} has results of another machine ({before}, here {where}); choose another folder')
    results['machine'] = results['machine'] or machine(device)
    what = dict(device=torch.device(device).type, small=small)
    if results.setdefault('what', what) != what:
        raise InputError(f'{folder} has results of {results["what"]}, this run is {what}; choose another folder')
    results['software'] = _software()
    _close_interrupted(results)
    if not any(_cache(folder).glob('*')):  # such as on a new machine, to which only the results were copied
        results['steps'] = {step: items for step, items in results['steps'].items() if step not in COMPILATION}
    if retry:
        results['interrupted'] = []
    results['steps'] = {
        step: {name: item for name, item in items.items() if not (retry and 'error' in item) and not _can_run_now(item)}
        for step, items in results['steps'].items()
    }
    _write(folder, results)
    names = list(steps or todo)
    while _missing(results, todo, names) and deadline - time.monotonic() > MIN_SECONDS:
        code, late = None, None
        try:
            with _ending_on_sigterm():
                code = _run_process(folder, device, names, small, deadline)
        except TookTooLong as error:
            late = str(error)
        results = read_results(folder)
        if running := results['running']:
            step, name = running
            if late:
                _store(results, step, name, dict(error=late))
            elif code is None and time.monotonic() - results['started'] < 60 * minutes / 2:
                results['running'] = None  # stopped by the deadline soon after it began: it stays missing
            else:
                reason = 'it was stopped at the deadline' if code is None else f'its process ended with code {code}'
                _store(results, step, name, dict(error=reason))
            _write(folder, results)
        elif code not in (0, UNUSABLE, None):
            print(
                f'the process of the measurements ended with code {code} outside of an item; see {folder / LOG}', file=sys.stderr
            )
            break
    return _missing(results, todo, names)


def _close_interrupted(results: dict) -> None:
    """Forget the item that ran when the last session was killed, or store an error if this happened to it twice."""
    if not (running := results.get('running')):
        return
    step, name = running
    results['running'] = None
    if running in results.setdefault('interrupted', []):
        _store(results, step, name, dict(error='two sessions were killed while it ran'))
    else:
        results['interrupted'].append(running)


def _can_run_now(item: dict) -> bool:
    """Return whether an item was not run for lack of modules that are now installed."""
    return bool(item.get('needs')) and all(find_spec(name) for name in item['needs'])


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, as Python turns SIGINT into KeyboardInterrupt, so that the child process is killed too."""
    if threading.current_thread() is not threading.main_thread():  # only that thread can set handlers
        yield
        return

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_process(folder: Path, device: str, steps: list[str], small: bool, deadline: float) -> int | None:
    """Run :func:`work` in a process of its own until the deadline.

    Returns:
        Its exit code, or None if it had to be stopped at the deadline.

    Raises:
        TookTooLong: If an item exceeds its limit. Its process has been stopped.
    """
    call = f'work({str(folder)!r}, {device!r}, {steps!r}, {small!r}, {deadline!r})'
    command = [sys.executable, '-c', f'from mmpelk.analysis.gpu_session import end_with_parent, work; end_with_parent(); {call}']
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH'))))
    # The next process, and the next session, find the compiled kernels and the choices of 'auto' here.
    kept = {'TRITON_CACHE_DIR': str(_cache(folder).absolute()), autotune.FILE: str((folder / CHOICES).absolute())}
    environment = {**kept, **os.environ, 'PYTHONPATH': path}
    with open(folder / LOG, 'a') as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment)
        try:
            return _wait(process, folder, deadline)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(process: subprocess.Popen, folder: Path, deadline: float) -> int | None:
    """Wait for the process of :func:`work`. See :func:`_run_process`."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(1)
        now, results = time.monotonic(), read_results(folder)
        if now > deadline:
            return None
        if running := results['running']:
            limit = MAX_SECONDS_OF_STEPS.get(running[0], MAX_SECONDS)
            if now - results['started'] > limit:
                raise TookTooLong(f'it was stopped after {limit} seconds')


def _cache(folder: Path) -> Path:
    """Return the folder of Triton's compiled kernels."""
    return Path(os.environ.get('TRITON_CACHE_DIR') or folder / CACHE)


def _software() -> dict[str, str | int | None]:
    """Return the versions of what computes on a GPU, apart from torch."""
    try:
        triton = version('triton')
    except PackageNotFoundError:  # or a nightly build, which has another name
        triton = None
    return dict(triton=triton, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())


def end_with_parent() -> None:
    """Kill the group of this process as soon as its parent has ended. It would disturb what the next session measures."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def work(folder: str, device: str, steps: list[str], small: bool, deadline: float) -> None:
    """Run the missing items of some steps until the deadline, and store each result.

    Ends the process with code ``UNUSABLE`` after an error that leaves the GPU unusable.

    Args:
        folder, device, steps, small: See :func:`run_session`.
        deadline: On the clock of ``time.monotonic``.
    """
    path, parent = Path(folder), os.getppid()
    results, todo = read_results(path), plan(device, SMALL if small else Scale())
    for step in steps:
        for name, measure in todo[step].items():
            if name in results['steps'].get(step, {}) or deadline - time.monotonic() < MIN_SECONDS:
                continue
            started, before = time.monotonic(), chosen_backends()
            results.update(running=[step, name], started=started)
            _write(path, results)
            print(f'{step}: {name}', flush=True)
            try:
                result = measure()
            except Exception as error:
                traceback.print_exc()
                result = dict(error=f'{type(error).__name__}: {first_line(error)}')
            if os.getppid() != parent:
                return  # the session was killed; another one may write results now
            result['seconds'] = round(time.monotonic() - started, 1)
            result['chosen'] = [_describe(call, name) for call, name in chosen_backends().items() if before.get(call) != name]
            _store(results, step, name, result)
            _write(path, results)
            if not _is_usable(device):
                os._exit(UNUSABLE)  # the usual way out could wait for the GPU
            gc.collect()  # the next item needs the memory
            if torch.device(device).type == 'cuda':
                torch.cuda.empty_cache()


def _describe(call: Call, name: str) -> str:
    """Describe a choice of 'auto'."""
    layout, kind = str(call.memory_format).removeprefix('torch.'), 'gradient of the weight' if call.weight_grad else 'convolution'
    dtype = str(call.dtype).removeprefix('torch.')
    return f'{name} for the {kind} of {call.shape}, K = {call.kernel_size}, {call.weight_size} cells, {dtype}, {layout}'


def _is_usable(device: str) -> bool:
    if torch.device(device).type != 'cuda':
        return True
    try:
        torch.cuda.synchronize(device)
        return True
    except RuntimeError:
        return False


def _store(results: dict, step: str, name: str, result: dict) -> None:
    results['steps'].setdefault(step, {})[name] = result
    results['running'] = None


def _missing(results: dict, todo: dict, steps: Sequence[str]) -> list[str]:
    return [f'{step}: {name}' for step in steps for name in todo[step] if name not in results['steps'].get(step, {})]


def _write(folder: Path, results: dict) -> None:
    write_atomically((json.dumps(results, indent=1) + '\n').encode(), folder / RESULTS)
    try:
        write_page(results, folder)
    except Exception:  # the results are stored, and a session must go on
        traceback.print_exc()
