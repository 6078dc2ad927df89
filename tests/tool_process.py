"""Run a tool in a forked process, whose parent has imported the frameworks. Importing them takes longer than most tests.

To test that a tool imports everything that it needs, the fixtures that train a model for a test file run it in a new process.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path

# The server imports the module `imports_before_fork` next to this file.
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['imports_before_fork'])


def start_server(env: Mapping[str, str]) -> None:
    """Start the process from which the others are forked, with the environment variables that libraries read only once."""
    before = dict(os.environ)
    os.environ.update(env, PYTHONPATH=f'{Path(__file__).parent}:{env["PYTHONPATH"]}')
    forkserver.ensure_running()
    os.environ.clear()
    os.environ.update(before)


def run(tool: Path, args: list[str], cwd: Path, env: Mapping[str, str], seconds: float) -> tuple[int | None, str]:
    """Run a tool.

    Returns:
        Its exit code, or None if it took too long, and what it printed.
    """
    start_server(env)
    with tempfile.NamedTemporaryFile() as log:
        process = CONTEXT.Process(target=_run, args=(tool, args, cwd, dict(env), log.name))
        process.start()
        process.join(seconds)
        process.kill()
        return process.exitcode, Path(log.name).read_text()


def _run(tool: Path, args: list[str], cwd: Path, env: dict[str, str], log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [str(tool), *args]
    sys.path[0] = str(tool.parent)
    runpy.run_path(str(tool), run_name='__main__')
