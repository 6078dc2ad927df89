"""Run a function in a forked process, which can crash, use up its memory, or take too long without harm."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

MEMORY = 16 * 2**30


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its exit code, or minus the signal that killed it, and what it printed."""

    code: int
    stdout: str
    stderr: str


def run_forked(function: Callable[[], object], seconds: float = 300, file_size: int | None = None) -> Outcome:
    """Run a function in a forked process with limits of memory and time.

    Args:
        function: What to run. An exception ends the process with a traceback, as in Python.
        seconds: The time limit.
        file_size: The largest file in bytes that the process may write.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os.dup2(stdout.fileno(), 1)
            os.dup2(stderr.fileno(), 2)
            os._exit(_run(function, file_size))
        code = _wait(child, seconds)
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode(errors='replace'))
    return Outcome(code, *texts)


def _run(function: Callable[[], object], file_size: int | None) -> int:
    """Run the function in the child, and return the exit code."""
    os.setsid()  # so that its own processes can be ended together with it
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does when it starts
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), 'w', errors='replace') for number in (1, 2))
    code = 0
    try:
        function()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    return code


def _wait(child: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(status)
