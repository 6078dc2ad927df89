"""Tables of the results of ``tools/gpu.py``, for a page of their own and for the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mmpelk.utils.errors import InputError, first_line
from mmpelk.utils.files import write_atomically, write_together

from .gpu_measurements import OURS, WIDE

PAGE = 'gpu.md'
# Only the text between these marks is replaced.
BEGIN, END = '<!-- begin of the GPU measurements -->', '<!-- end of the GPU measurements -->'
# These marks enclose a sentence that is no longer true after a measurement.
SENTENCE = re.compile(r'(<!-- gpu (\w+) -->).*?(<!-- /gpu -->)', re.DOTALL)
# What replaces the marked sentences of each document, by the name in the mark.
SENTENCES = {
    'README.md': {
        'status': 'tested on CPUs (`make test`). On a GPU ({device}), {checks} ([results](docs/benchmarks/gpu.md)).',
        'kernels': '[measured on a GPU](docs/benchmarks/gpu.md)',
    },
    'CHANGELOG.md': {'status': '', 'interpreter': ''},
    'docs/benchmarks/gpu.md': {'status': 'measured on {device}; {checks} ([results](#whether-the-targets-hold)).'},
    'docs/operator.md': {'kernels': '[measured on a GPU](benchmarks/gpu.md)', 'speed': 'are measured separately'},
    'docs/reproducing.md': {'throughput': 'The throughput on a GPU is [measured separately](benchmarks/gpu.md).'},
}
CUDNN = "cuDNN times its algorithms and does not round float32 to tf32, like mmpelk's backends."
TARGET_SHAPE = (16, 46, 128, 51)
DENSE = ('F.conv2d', 'F.conv2d, channels_last')
# How the checks name the error that they found.
ERRORS = ('largest_error', 'difference', 'channels_last_difference', 'difference_from_float32')


def failures(results: dict) -> list[str]:
    """Return the step, the name, and the error of each item that failed."""
    return [
        f'{step}: {name}: {item["error"]}'
        for step, items in results['steps'].items()
        for name, item in items.items()
        if 'error' in item
    ]


def write_page(results: dict, folder: Path) -> str:
    """Write all tables to a file in a folder, and return the table of the targets."""
    write_atomically(('\n'.join(['# Measured on a GPU', '', *page_lines(results)]) + '\n').encode(), folder / PAGE)
    return '\n'.join(target_lines(results))


def update_documents(results: dict, root: Path) -> None:
    """Write the tables into ``docs/benchmarks/gpu.md``, and the targets into ``README.md``, between the marks.

    Sentences that say that nothing was measured are replaced too (``SENTENCES``). If one document cannot be written, none is.

    Raises:
        InputError: If there are no results, or a document has no marks.
    """
    if not results['steps']:
        raise InputError('there are no results; run tools/gpu.py on a machine with a GPU first, with the same --out')
    tables = {'docs/benchmarks/gpu.md': page_lines(results), 'README.md': [_machine(results), '', *target_lines(results)]}
    values = dict(device=(results['machine'] or {}).get('device', 'an unknown GPU'), checks=_passed(results['steps']))
    contents = {}
    for name, sentences in SENTENCES.items():
        path = root / name
        text = path.read_text()
        if sorted(match[1] for match in SENTENCE.findall(text)) != sorted(sentences):
            raise InputError(f'{path} must have the marks {sorted(sentences)} once each, as in <!-- gpu NAME -->...<!-- /gpu -->')
        text = SENTENCE.sub(lambda match, s=sentences: match[1] + s[match[2]].format(**values) + match[3], text)
        if lines := tables.get(name):
            if text.count(BEGIN) != 1 or text.count(END) != 1:
                raise InputError(f'{path} must have the lines {BEGIN!r} and {END!r} once each')
            before, after = text.split(BEGIN)[0], text.split(END)[1]
            text = '\n'.join([before + BEGIN, '', *lines, '', END + after])
        contents[path] = text.encode()
    write_together(contents)


def page_lines(results: dict) -> list[str]:
    """Return all tables as lines of Markdown."""
    steps = results['steps']
    lines = [_machine(results), '', f'`make gpu`. {CUDNN}', '', '## Whether the targets hold', '', *target_lines(results)]
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
        if body := _shown(make(steps)):
            lines += ['', f'## {title}', '', *body]
    return lines


def _shown(lines: Iterable[str]) -> list[str]:
    """Collect lines. A result of another version, or one that was edited, must not hide the other tables."""
    shown = []
    try:
        shown.extend(lines)  # keeps the lines before an error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        shown += ['', f'The other results cannot be shown: {type(error).__name__}: {first_line(error)}.']
    return shown


def target_lines(results: dict) -> list[str]:
    """Return a table of the targets, with what was measured, or 'not measured'."""
    return _shown(_target_rows(results['steps']))


def _target_rows(steps: dict) -> Iterator[str]:
    yield from _header('target', 'measured', 'holds')
    for text, value, limit, at_least in _targets(steps):
        measured = 'not measured' if value is None else f'{value:.2f}'
        holds = '' if value is None else ('yes' if (value >= limit if at_least else value <= limit) else 'no')
        yield f'| {text} | {measured} | {holds} |'


def _targets(steps: dict) -> Iterator[tuple[str, float | None, float, bool]]:
    """Yield a text, the measured value, the limit, and whether the limit is the least value."""
    for precision in ('float32', 'bfloat16'):
        operator, where = _done(steps, 'operator'), f'at {TARGET_SHAPE[:3]}, {precision}'
        row = operator.get(f'{precision}, forward, {TARGET_SHAPE}')
        dense = [ratio for name in DENSE if (ratio := _ratio(row, name, OURS))]  # in two layouts
        yield f"speed over torch's 51x51 {where}: at least 10", min(dense, default=None), 10, True
        yield f'time over a copy of the map {where}: at most 3', _ratio(row, OURS, 'copy'), 3, False
        graphs = operator.get(f'{precision}, CUDA graphs beside plain calls, {TARGET_SHAPE}')
        ratio = _ratio(graphs, f'{OURS}, CUDA graph', 'copy, CUDA graph')
        yield f'the same in CUDA graphs, without the time of the launches, {precision}: at most 3', ratio, 3, False
        inference = next((item for name, item in _done(steps, 'inference').items() if name.startswith(precision)), None)
        yield f'inference speed of PeLK-T over {WIDE}, {precision}: at least 1', _ratio(inference, WIDE, 'PeLK-T'), 1, True
        yield (
            f'inference speed of PeLK-101-T over PeLK-T, {precision}: at least 0.95',
            _ratio(inference, 'PeLK-T', 'PeLK-101-T'),
            0.95,
            True,
        )
        wide, pelk = (_done(steps, 'training').get(f'{precision}, {name}') for name in (WIDE, 'PeLK-T'))
        yield f'training speed of PeLK-T over {WIDE}, {precision}: at least 1', _quotient(wide, pelk), 1, True


def _checks(steps: dict) -> Iterator[str]:
    items = steps.get('checks', {})
    if not items:
        return
    yield f'{_passed(steps)}.'
    yield ''
    failed = [f'- failed: {name}: {item["error"]}' for name, item in items.items() if 'error' in item]
    if failed:
        yield from (*failed, '')
    yield from _header('check', 'largest error', 'limit')
    for name, item in items.items():
        if errors := [item[key] for key in ERRORS if key in item]:
            yield f'| {name} | {_text(errors[0], ".1e")} | {_text(item.get("limit"), ".0e")} |'


def _passed(steps: dict) -> str:
    items = steps.get('checks', {})
    return f'{len(_done(steps, "checks"))} of {len(items)} checks passed' if items else 'no check has run'


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
    items = [*_done(steps, 'operator').values(), *_done(steps, 'shapes').values()]
    rows = [row for row in items if 'title' not in row]
    yield from _operator_tables(rows)
    for item in items:
        if 'title' in item:
            yield f'{item["precision"]}, forward, {tuple(item["shape"])}, {item["title"]}:'
            yield ''
            yield from _header('call', 'ms', 'slowest : fastest')
            for name, time in item['ms'].items():
                yield f'| {name} | {_text(time["median"], ".3g")} | {_text(_quotient(time, time, "slowest", "fastest"), ".2f")} |'
            yield ''


def _operator_tables(rows: list[dict]) -> Iterator[str]:
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
        cells = [_text(row['ms'].get(name, {}).get('median'), '.3g') for name in names]
        ratios = [_ratio(row, *pair) for pair in (('F.conv2d', OURS), ('7x7, 8/3 C', OURS), (OURS, 'copy'))]
        yield f'| {tuple(row["shape"])} | {" | ".join(cells)} | {" | ".join(_text(ratio, ".2f") for ratio in ratios)} |'
    yield ''
    lacking = dict.fromkeys(f'- {name}: {reason}' for row in rows for name, reason in row.get('lacking', {}).items())
    if lacking:
        yield from (*lacking, '')


def _sweep(steps: dict) -> Iterator[str]:
    yield from _operator_tables(list(_done(steps, 'sweep').values()))


def _inference(steps: dict) -> Iterator[str]:
    for name, item in _done(steps, 'inference').items():
        yield f'{name}, networks of {item["networks"]}:'
        yield ''
        yield from _header('model', 'images/s', 'ms', 'slowest : fastest', f'speed over {WIDE}')
        for model, time in item['ms'].items():
            yield (
                f'| {model} | {_text(time["images_per_second"], ".0f")} | {_text(time["median"], ".1f")} '
                f'| {_text(_quotient(time, time, "slowest", "fastest"), ".2f")} | {_text(_ratio(item, WIDE, model), ".2f")} |'
            )
        yield ''


def _training(steps: dict) -> Iterator[str]:
    items = _done(steps, 'training')
    if not items:
        return
    yield from _header('model', 'head', 'type', 'batch', 'pixels', 'ms', 'peak memory (MiB)', f'time over {WIDE}')
    for item in items.values():
        ratio = _quotient(item, items.get(f'{item["precision"]}, {WIDE}'))
        yield f'| {" | ".join(map(str, _training_cells(item)))} | {_text(ratio, ".2f")} |'


def _training_cells(item: dict) -> list:
    cells = [item[key] for key in ('model', 'head', 'precision', 'batch', 'size')]
    return [*cells, _text(item['median'], '.1f'), _text(item['peak_mib'], '.0f')]


def _batches(steps: dict) -> Iterator[str]:
    items = _done(steps, 'batches')
    if not items:
        return
    yield 'Training steps at powers of two, up to the largest batch that fits.'
    yield ''
    yield from _header('model', 'head', 'type', 'batch', 'pixels', 'ms', 'peak memory (MiB)', 'images/s')
    for item in items.values():
        for row in item['batches']:
            speed = 1000 * row['batch'] / row['median'] if row['median'] else None
            yield f'| {" | ".join(map(str, _training_cells(row)))} | {_text(speed, ".0f")} |'
    yield ''
    for name, item in items.items():
        if item.get('stopped'):
            yield f'- {name} ended at {item["stopped"]}'


def _profiles(steps: dict) -> Iterator[str]:
    for name, item in _done(steps, 'profile').items():
        yield f'{name}, batch {item["batch"]}, {item["size"]} px, {_text(item["total_ms"], ".1f")} ms in kernels:'
        yield ''
        yield from _header('kernel', 'calls', 'ms', 'share')
        for row in item['kernels'][:15]:
            label = re.sub(r'[|`]', ' ', row['kernel'])[:90]
            share = row['ms'] / item['total_ms'] if item['total_ms'] else None
            yield f'| `{label}` | {row["calls"]} | {_text(row["ms"], ".2f")} | {_text(share, ".1%")} |'
        yield ''


def _tests(steps: dict) -> Iterator[str]:
    for name, item in steps.get('tests', {}).items():
        yield f'- {name}: {item.get("summary") or item["error"]}'


def _done(steps: dict, step: str) -> dict[str, dict]:
    """Return the items of a step that have a result."""
    return {name: item for name, item in steps.get(step, {}).items() if 'error' not in item}


def _ratio(row: dict | None, one: str, other: str) -> float | None:
    """Return the ratio of the median times of two calls, or None if one is missing."""
    times = (row or {}).get('ms') or {}
    return _quotient(times.get(one), times.get(other))


def _quotient(one: dict | None, other: dict | None, upper: str = 'median', lower: str = 'median') -> float | None:
    """Divide a time of one timing by a time of another. Return None if one is missing or zero."""
    if not one or not other or not one.get(upper) or not other.get(lower):
        return None
    return one[upper] / other[lower]


def _text(value: float | None, form: str) -> str:
    return '' if value is None else format(value, form)


def _machine(results: dict) -> str:
    machine, software = results.get('machine'), results.get('software')
    if not isinstance(machine, dict):
        return 'Unknown machine.'
    known = machine | {key: value for key, value in (software if isinstance(software, dict) else {}).items() if value}
    return ', '.join(f'{key} {value}' for key, value in known.items()) + '.'


def _header(*names: str) -> list[str]:
    return [f'| {" | ".join(names)} |', '|---' * len(names) + '|']
