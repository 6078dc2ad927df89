"""Read the scalars that mmengine logs during training."""

from __future__ import annotations

import json
from pathlib import Path

from mmpelk.utils.errors import InputError


def read_scalars(work_dir: Path) -> tuple[dict[int, dict], dict[int, dict]]:
    """Read the logs of all runs in a work dir. Where a resumed run repeats iterations, its records replace the earlier ones.

    Returns:
        The training records and the validation records, each by iteration.

    Raises:
        InputError: If the folder has no training record, or a line is damaged. A last line that a killed run left incomplete is ignored.
    """
    training, validation = {}, {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        lines = path.read_text(errors='replace').splitlines()
        for number, line in enumerate(lines, 1):
            record = _record(line)
            if record is not None:
                (training if 'loss' in record else validation)[record['step']] = record
            elif number < len(lines):
                raise InputError(f'line {number} of {path} is not a record of the training log: {line[:60]!r}')
    if not training:
        raise InputError(f'{work_dir} has no training log (*/vis_data/scalars.json)')
    return training, validation


def _record(line: str) -> dict | None:
    """Return the record in a line, or None if the line is not one: scalars by name, with the iteration as ``step``."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get('step'), int):
        return None
    return record if all(isinstance(value, (int, float)) for name, value in record.items() if 'loss' in name) else None
