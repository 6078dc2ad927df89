"""Run a series of measurements that, if interrupted, continues where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmpelk.utils.errors import InputError, first_line
from mmpelk.utils.files import write_atomically


def measure_missing(names: Sequence[str], measure: Callable[[str], Any], path: Path) -> dict[str, Any]:
    """Run the measurements that a file of results lacks, and save the file after each one.

    Args:
        names: Names of the measurements, in order.
        measure: Returns the result for a name, which must be representable as JSON.
        path: The JSON file of results by name. It need not exist.

    Returns:
        All results in the file, including those under other names.

    Raises:
        InputError: If the file is not a JSON file of results by name.
    """
    results = _read(path) if path.exists() else {}
    missing = [name for name in names if name not in results]
    start = time.monotonic()
    for done, name in enumerate(missing, 1):
        results[name] = measure(name)
        write_atomically((json.dumps(results, indent=1) + '\n').encode(), path)
        remaining = (time.monotonic() - start) / done * (len(missing) - done)
        print(f'[{done}/{len(missing)}, {remaining / 60:.0f} min to go] {name}: {results[name]}', flush=True)
    return results


def measure_seeds(names: Sequence[str], seeds: int, measure: Callable[[str, int], Any], path: Path) -> dict[str, Any]:
    """Measure each name with each seed, as in :func:`measure_missing`. The results are named '<name>/<seed>'.

    All names with the first seed come before any with the second, so that an interrupted comparison is still fair.
    """

    def measure_run(run: str) -> Any:
        name, seed = run.rsplit('/', 1)
        return measure(name, int(seed))

    return measure_missing([f'{name}/{seed}' for seed in range(seeds) for name in names], measure_run, path)


def _read(path: Path) -> dict[str, Any]:
    """Read the results of an earlier, interrupted series."""
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f'{path} is not valid JSON: {first_line(error)}; remove it to start again') from error
    if not isinstance(results, dict):
        raise InputError(f'{path} does not contain results by name; remove it to start again')
    return results
