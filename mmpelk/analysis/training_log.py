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
        InputError: If the folder has no training record.
    """
    training, validation = {}, {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            (training if 'loss' in record else validation)[record['step']] = record
    if not training:
        raise InputError(f'{work_dir} has no training log (*/vis_data/scalars.json)')
    return training, validation
