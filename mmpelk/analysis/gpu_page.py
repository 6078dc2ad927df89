"""Tables of the results of ``tools/gpu.py``, for a page of their own and for the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmpelk.utils.errors import InputError
from mmpelk.utils.files import write_atomically

from .gpu_measurements import WIDE

PAGE = 'gpu.md'
# The documents keep what they say outside these marks.
BEGIN, END = '<!-- begin of the GPU measurements -->', '<!-- end of the GPU measurements -->'
LARGEST = (16, 46, 128, 51)
OURS = 'auto'


def write_page(results: dict, folder: Path) -> str:
    """Write all tables to a file in a folder, and return the table of the targets."""
    write_atomically(('\n'.join(['# Measured on a GPU', '', *page_lines(results)]) + '\n').encode(), folder / PAGE)
    return '\n'.join(target_lines(results))


def update_documents(results: dict, root: Path) -> None:
    """Write the tables into ``docs/benchmarks/gpu.md``, and the targets into ``README.md``, between the marks.

    Raises:
        InputError: If there are no results, or a document has no marks.
    """
    if not results['steps']:
        raise InputError('there are no results; run tools/gpu.py on a machine with a GPU first, with the same --out')
    for name, lines in (
        ('docs/benchmarks/gpu.md', page_lines(results)),
        ('README.md', [_machine(results), '', *target_lines(results)]),
    ):
        path = root / name
        text = path.read_text()
        if text.count(BEGIN) != 1 or text.count(END) != 1:
            raise InputError(f'{path} must have the lines {BEGIN!r} and {END!r} once each')
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        write_atomically('\n'.join([before + BEGIN, '', *lines, '', END + after]).encode(), path)


def page_lines(results: dict) -> list[str]:
    """Return all tables as lines of Markdown."""
    steps = results['steps']
    lines = [_machine(results), '', '`make gpu`', '', '## Targets', '', *target_lines(results)]
    for title, make in (
        ('Checks', _checks),
        ('Resources of the Triton kernels', _kernels),
        ('The operator', _operator),
        ('Inference', _inference),
        ('A training step', _training),
        ('Batches that fit', _batches),
        ('Where a training step spends its time', _profiles),
        ('Kernel sizes', _sweep),
        ('Tests', _tests),
    ):
        if body := list(make(steps)):
            lines += ['', f'## {title}', '', *body]
    return lines


def target_lines(results: dict) -> list[str]:
    """Return a table of the targets, with what was measured, or 'not measured'."""
    lines = _header('target', 'measured', 'holds')
    for text, value, limit, at_least in _targets(results['steps']):
        measured = 'not measured' if value is None else f'{value:.2f}'
        holds = '' if value is None else ('yes' if (value >= limit if at_least else value <= limit) else 'no')
        lines.append(f'| {text} | {measured} | {holds} |')
    return lines


def _targets(steps: dict) -> Iterator[tuple[str, float | None, float, bool]]:
    """Yield a text, the measured value, the limit, and whether the limit is the least value."""
    for precision in ('float32', 'bfloat16'):
        row = _done(steps, 'operator').get(f'{precision}, forward, {LARGEST}')
        yield f"speed over cuDNN's 51x51 at {LARGEST[:3]}, {precision}: at least 10", _ratio(row, 'F.conv2d', OURS), 10, True
        yield f'time over a copy of the map at {LARGEST[:3]}, {precision}: at most 3', _ratio(row, OURS, 'copy'), 3, False
        inference = next((item for name, item in _done(steps, 'inference').items() if name.startswith(precision)), None)
        yield f'inference speed of PeLK-T over {WIDE}, {precision}: at least 1', _ratio(inference, WIDE, 'PeLK-T'), 1, True
        yield (
            f'inference speed of PeLK-101-T over PeLK-T, {precision}: at least 0.95',
            _ratio(inference, 'PeLK-T', 'PeLK-101-T'),
            0.95,
            True,
        )
        training = _done(steps, 'training')
        medians = [training.get(f'{precision}, {name}', {}).get('median') for name in (WIDE, 'PeLK-T')]
        value = medians[0] / medians[1] if all(medians) else None
        yield f'training speed of PeLK-T over {WIDE}, {precision}: at least 1', value, 1, True


def _checks(steps: dict) -> Iterator[str]:
    items = steps.get('checks', {})
    if not items:
        return
    failed = {name: item['error'] for name, item in items.items() if 'error' in item}
    yield f'{len(items) - len(failed)} of {len(items)} checks passed.'
    yield ''
    yield from (f'- failed: {name}: {error}' for name, error in failed.items())
    yield from _header('check', 'largest error', 'limit')
    for name, item in items.items():
        if 'largest_error' in item:
            yield f'| {name} | {item["largest_error"]:.1e} | {item["limit"]:.0e} |'


def _kernels(steps: dict) -> Iterator[str]:
    for item in _done(steps, 'kernels').values():
        yield from variant_lines(item['variants'])


def variant_lines(variants: Sequence[dict]) -> list[str]:
    """Return a table of the resources of kernel variants, as :func:`compile_variants` reports them."""
    lines = _header(
        'kernel', 'GPU', 'type', 'block', 'registers', 'spills (bytes)', 'shared memory (KB)', 'cp.async', 'matrix instructions'
    )
    for row in variants:
        lines.append(
            f'| {row["kernel"]} | sm_{row["capability"]} | {row["dtype"]} | {row["block"]} | {row["registers"]} | {row["stack"]} '
            f'| {row["shared"] / 1024:.0f} | {row["cp_async"]} | {row["mma"]} |'
        )
    return lines


def _operator(steps: dict) -> Iterator[str]:
    rows = list(_done(steps, 'operator').values())
    for precision in dict.fromkeys(row['precision'] for row in rows):
        for backward in (False, True):
            chosen = [row for row in rows if (row['precision'], row['backward']) == (precision, backward)]
            if chosen:
                yield from _operator_table(chosen, f'{precision}, {"forward and backward" if backward else "forward"}, ms')


def _operator_table(rows: list[dict], title: str) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row['ms']))
    yield f'{title}:'
    yield ''
    yield from _header('(N, C, H = W, K)', *names, 'F.conv2d : auto', '7x7 : auto', 'auto : copy')
    for row in rows:
        cells = [f'{row["ms"][name]["median"]:.3g}' if name in row['ms'] else '' for name in names]
        ratios = [_ratio(row, *pair) for pair in (('F.conv2d', OURS), ('7x7, 8/3 C', OURS), (OURS, 'copy'))]
        yield f'| {tuple(row["shape"])} | {" | ".join(cells)} | {" | ".join(f"{ratio:.2f}" for ratio in ratios)} |'
    yield ''


def _sweep(steps: dict) -> Iterator[str]:
    rows = list(_done(steps, 'sweep').values())
    for precision, backward in dict.fromkeys((row['precision'], row['backward']) for row in rows):
        chosen = [row for row in rows if (row['precision'], row['backward']) == (precision, backward)]
        yield from _operator_table(chosen, f'{precision}, {"forward and backward" if backward else "forward"}, ms')


def _inference(steps: dict) -> Iterator[str]:
    for name, item in _done(steps, 'inference').items():
        yield f'{name}, networks of {item["networks"]}:'
        yield ''
        yield from _header('model', 'images/s', 'ms', 'slowest : fastest', f'speed over {WIDE}')
        for model, time in item['ms'].items():
            yield (
                f'| {model} | {time["images_per_second"]:.0f} | {time["median"]:.1f} | {time["slowest"] / time["fastest"]:.2f} '
                f'| {_ratio(item, WIDE, model):.2f} |'
            )
        yield ''


def _training(steps: dict) -> Iterator[str]:
    items = _done(steps, 'training')
    if not items:
        return
    yield from _header('model', 'head', 'type', 'batch', 'pixels', 'ms', 'peak memory (MiB)', f'time over {WIDE}')
    for item in items.values():
        wide = items.get(f'{item["precision"]}, {WIDE}')
        ratio = f'{item["median"] / wide["median"]:.2f}' if wide else ''
        yield f'| {" | ".join(map(str, _training_cells(item)))} | {ratio} |'


def _training_cells(item: dict) -> list:
    peak = '' if item['peak_mib'] is None else f'{item["peak_mib"]:.0f}'
    return [item['model'], item['head'], item['precision'], item['batch'], item['size'], f'{item["median"]:.1f}', peak]


def _batches(steps: dict) -> Iterator[str]:
    items = _done(steps, 'batches')
    if not items:
        return
    yield 'Training steps at powers of two, up to the largest batch that fits.'
    yield ''
    yield from _header('model', 'head', 'type', 'batch', 'pixels', 'ms', 'peak memory (MiB)', 'images/s')
    for item in items.values():
        for row in item['batches']:
            yield f'| {" | ".join(map(str, _training_cells(row)))} | {1000 * row["batch"] / row["median"]:.0f} |'


def _profiles(steps: dict) -> Iterator[str]:
    for name, item in _done(steps, 'profile').items():
        yield f'{name}, batch {item["batch"]}, {item["size"]} px, {item["total_ms"]:.1f} ms in kernels:'
        yield ''
        yield from _header('kernel', 'calls', 'ms', 'share')
        for row in item['kernels'][:15]:
            label = re.sub(r'[|`]', ' ', row['kernel'])[:90]
            yield f'| `{label}` | {row["calls"]} | {row["ms"]:.2f} | {row["ms"] / item["total_ms"]:.1%} |'
        yield ''


def _tests(steps: dict) -> Iterator[str]:
    for name, item in steps.get('tests', {}).items():
        yield f'- {name}: {item.get("summary") or item["error"]}'


def _done(steps: dict, step: str) -> dict[str, dict]:
    """Return the items of a step that have a result."""
    return {name: item for name, item in steps.get(step, {}).items() if 'error' not in item}


def _ratio(row: dict | None, one: str, other: str) -> float | None:
    if row is None or one not in row['ms'] or other not in row['ms']:
        return None
    return row['ms'][one]['median'] / row['ms'][other]['median']


def _machine(results: dict) -> str:
    return ', '.join(f'{key} {value}' for key, value in results['machine'].items()) + '.'


def _header(*names: str) -> list[str]:
    return [f'| {" | ".join(names)} |', '|---' * len(names) + '|']
