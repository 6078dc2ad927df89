"""Damage checkpoints in random ways, and read them as the tools do. Each must either load unchanged or raise an InputError.

The checksums of the file reveal damaged bytes. A damaged pickle has correct checksums, as if from a hostile author. So do wrong values,
which have the types that torch.save can write.
"""

from __future__ import annotations

import copy
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forks import run_forked
from mmengine.registry import MODELS, init_default_scope
from tiny_runner import runner

from mmpelk.apis.models import dataset_meta
from mmpelk.checkpoints import check_fit, install_safe_io, model_weights, read_checkpoint, write_checkpoint
from mmpelk.checkpoints.foreign_names import convert, source_weights
from mmpelk.checkpoints.resuming import check_resumable
from mmpelk.engine.config import read_config
from mmpelk.models.state_dict import resize_stages
from mmpelk.ops import SharingGrid
from mmpelk.utils.errors import InputError

Change = Callable[[np.random.Generator, bytes], bytes]
# The number of checkpoints that one process reads, and that a crash therefore loses at most.
CHUNK = 50


def run(count: int, folder: Path, config: Path, model_checkpoint: Path, seed: int = 0) -> Iterator[tuple[str, str | None]]:
    """Damage a checkpoint of a model, and one of a training run.

    Args:
        count: Number of damaged checkpoints.
        folder: Where files may be written.
        config: A config.
        model_checkpoint: A checkpoint of the config's model.
        seed: Seed of the damage.

    Yields:
        How a checkpoint was damaged, and what went wrong in reading it, or None.
    """
    install_safe_io()
    cfg = read_config(str(config))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    trained = folder / 'trained'
    runner(trained, epochs=2).train()
    readers = [
        (model_checkpoint, lambda path: _use_model(path, cfg, model)),
        (trained / 'epoch_2.pth', lambda path: _resume(path, folder)),
    ]
    for start in range(0, count, CHUNK):
        numbers = range(start, min(start + CHUNK, count))
        outcome = run_forked(lambda numbers=numbers: _try(numbers, seed, readers))
        results = [json.loads(line) for line in outcome.stdout.splitlines() if line.startswith('["damage')]
        yield from ((what, fault) for _, what, fault in results)
        if len(results) < len(numbers):
            yield f'checkpoint {start + len(results)}', f'the process ended with {outcome.code}: {outcome.stderr[-300:]}'


def _try(numbers: range, seed: int, readers: list) -> None:
    """Damage and read checkpoints, and print a line of JSON for each."""
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        source, read = readers[number % len(readers)]
        original = source.read_bytes()
        kind = [_damage_bytes, _damage_pickle, _damage_values][rng.choice(3, p=[0.35, 0.25, 0.4])]
        what, content = kind(rng, original)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, 'damaged.pth')
            path.write_bytes(content)
            fault = _fault(path, source, kind is _damage_bytes, read)
        print(json.dumps(['damage', f'{number} {source.name}: {what}', fault]), flush=True)


def _fault(path: Path, source: Path, must_be_equal: bool, read: Callable[[Path], None]) -> str | None:
    """Return what is wrong with reading a checkpoint: an error that is not a one-line InputError, or changed values."""
    try:
        checkpoint = read_checkpoint(path)
        if must_be_equal:
            same = _equal(checkpoint.get('state_dict'), read_checkpoint(source)['state_dict'])
            return None if same else 'other weights were read'
        read(path)
    except InputError as error:
        return None if '\n' not in str(error) and 'damaged.pth' in str(error) else f'message {error}'
    except BaseException as error:
        *_, frame = _frames(error)
        return f'{type(error).__name__}: {error} at {frame}'
    return None


def _frames(error: BaseException) -> list[str]:
    import traceback

    return [f'{frame.filename.rpartition("/")[2]}:{frame.lineno}' for frame in traceback.extract_tb(error.__traceback__)]


def _equal(one: Any, other: Any) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in other)


def _damage_bytes(rng: np.random.Generator, content: bytes) -> tuple[str, bytes]:
    """Change the bytes of a file as failing disks and transfers do."""
    data, size = bytearray(content), len(content)
    at, length = int(rng.integers(size)), int(2 ** rng.uniform(0, 12))
    kind = str(
        rng.choice(['flip', 'flip several', 'cut', 'zeros', 'noise', 'removed', 'repeated', 'swapped', 'empty', 'appended'])
    )
    if kind.startswith('flip'):
        for at in rng.integers(size, size=1 if kind == 'flip' else 20):
            data[at] ^= 1 << int(rng.integers(8))
    elif kind == 'cut':
        del data[at:]
    elif kind == 'zeros':
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 'noise':
        data[at : at + length] = rng.bytes(len(data[at : at + length]))
    elif kind == 'removed':
        del data[at : at + length]
    elif kind == 'repeated':
        data[at:at] = data[at : at + length]
    elif kind == 'swapped':
        other = int(rng.integers(size))
        data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
    elif kind == 'empty':
        data.clear()
    else:
        data += rng.bytes(length)
    return f'bytes {kind} at {at} of {size}', bytes(data)


def _damage_pickle(rng: np.random.Generator, content: bytes) -> tuple[str, bytes]:
    """Change the pickle in the zip file, and write the file again with correct checksums."""
    result = io.BytesIO()
    what = ''
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(result, 'w') as after:
        for entry in before.infolist():
            part = bytearray(before.read(entry))
            if entry.filename.endswith('/data.pkl'):
                at = int(rng.integers(len(part)))
                kind = str(rng.choice(['flip', 'byte', 'cut', 'removed', 'repeated']))
                what = f'pickle {kind} at {at} of {len(part)}'
                if kind == 'flip':
                    part[at] ^= 1 << int(rng.integers(8))
                elif kind == 'byte':
                    part[at] = int(rng.integers(256))
                elif kind == 'cut':
                    del part[at:]
                elif kind == 'removed':
                    del part[at : at + int(rng.integers(1, 9))]
                else:
                    part[at:at] = part[at : at + int(rng.integers(1, 9))]
            after.writestr(entry.filename, bytes(part))
    return what, result.getvalue()


VALUES = [
    None, True, 0, -1, 2**70, 1.5, float('nan'), '', 'text', b'bytes', [], {}, (), [None], {1: 2}, {'': None}, [[1]], 'a' * 10000,
    torch.tensor(0), torch.tensor(float('nan')), torch.zeros(0), torch.zeros(3, 3), torch.zeros(2, 0, 3), torch.tensor([2**60]),
    torch.tensor(True), torch.zeros(1, dtype=torch.complex64), torch.zeros(5, dtype=torch.int8), torch.eye(2).to_sparse(),
    torch.zeros(3, 3, device='meta'), {'state_dict': {}}, torch.zeros(1).expand(10**6), torch.nn.Parameter(torch.zeros(2)),
]  # fmt: skip


def _damage_values(rng: np.random.Generator, content: bytes) -> tuple[str, bytes]:
    """Replace, remove, or rename a few items anywhere in a checkpoint."""
    root = dict(root=torch.load(io.BytesIO(content), weights_only=False))
    changes = []
    for _ in range(int(rng.integers(1, 4))):
        parent, key, path = _random_item(rng, root)
        kind = str(rng.choice(['replace', 'replace', 'remove', 'rename']))
        index = int(rng.integers(len(VALUES)))
        if kind == 'replace' or isinstance(parent, list) or parent is root:
            parent[key] = copy.deepcopy(VALUES[index])
            changes.append(f'{path} = {str(VALUES[index])[:40]}')
        elif kind == 'remove':
            del parent[key]
            changes.append(f'{path} removed')
        else:
            parent[str(rng.choice(['', 'x', f'{key}.x', str(key)[1:]]))] = parent.pop(key)
            changes.append(f'{path} renamed')
    result = io.BytesIO()
    torch.save(root['root'], result)
    return ', '.join(changes), result.getvalue()


def _random_item(rng: np.random.Generator, root: dict) -> tuple[dict | list, Any, str]:
    """Return a container, a key in it, and the path to it. Each level is equally likely."""
    parent, key, path = root, 'root', 'root'
    while rng.random() < 0.75:
        inner = parent[key]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        parent, key = inner, list(inner)[rng.integers(len(inner))] if isinstance(inner, dict) else int(rng.integers(len(inner)))
        path += f'[{key!r}]'
    return parent, key, path


def _use_model(path: Path, cfg: Any, model: torch.nn.Module) -> None:
    """Do what test.py, image_demo.py, convert_checkpoint.py, and resize_checkpoint.py do with a checkpoint."""
    checkpoint = read_checkpoint(path)
    weights = model_weights(checkpoint)
    errors = []
    for step in (
        lambda: (check_fit(weights, model, path), model.load_state_dict(dict(weights))),
        lambda: check_fit(weights, model, path, strict=False),
        lambda: dataset_meta(cfg, checkpoint, path),
        lambda: _named(path, lambda: convert(source_weights(checkpoint), model)),
        lambda: _named(path, lambda: resize_stages(dict(weights), lambda i, old: SharingGrid.peripheral(31), 'extend')),
        lambda: write_checkpoint(checkpoint, path.with_name('written.pth')),
    ):
        try:
            step()
        except InputError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _named(path: Path, function: Callable[[], object]) -> None:
    """Add the name of the checkpoint to errors, as the tools do."""
    try:
        function()
    except InputError as error:
        raise InputError(f'checkpoint {path}: {error}') from error


def _resume(path: Path, folder: Path) -> None:
    """Resume a run from a checkpoint as train.py does."""
    checkpoint = read_checkpoint(path)
    with tempfile.TemporaryDirectory(dir=folder) as work_dir:
        resumed = runner(work_dir, epochs=3, resume=True)
        resumed._load_from = str(path)
        check_fit(model_weights(checkpoint), resumed.model, path)
        check_resumable(checkpoint, path)
        resumed.train()
