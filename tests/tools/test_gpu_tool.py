"""tools/gpu.py on a CPU with tiny sizes: every step, stopping and continuing, failures, and the pages."""

import json
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TOOLS, tool_env

from mmpelk.analysis import gpu_measurements, gpu_page, gpu_session

SMALL = ('--device', 'cpu', '--small')


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """A folder with the results of all steps, and the exit code of the tool."""
    out = tmp_path_factory.mktemp('gpu') / 'new'
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv('TRITON_INTERPRET', raising=False)
        code = run_gpu(patch, '--out', out, *SMALL)
    return out, code


def run_gpu(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['gpu.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOLS / 'gpu.py'), run_name='__main__')
    return stop.value.code


def test_all_steps_leave_results(measured):
    out, code = measured
    results = json.loads((out / 'results.json').read_text())
    errors = [item['error'] for items in results['steps'].values() for item in items.values() if 'error' in item]
    assert code == 0 and not errors, errors
    steps = gpu_measurements.plan('cpu', gpu_measurements.SMALL)
    planned = {step: list(items) for step, items in steps.items() if items}
    assert planned == {step: list(items) for step, items in results['steps'].items()}
    assert list(steps) == ['checks', 'operator', 'inference', 'training', 'profile', 'shapes', 'sweep', 'batches']
    assert results['steps']['checks']['fft, float32, float64 reference']['largest_error'] < 1e-5
    (row,) = (row for row in results['steps']['operator'].values() if not row['backward'])
    assert row['shape'] == [1, 3, 9, 13] and row['ms']['auto']['median'] > 0
    (inference,) = results['steps']['inference'].values()
    assert set(inference['ms']) == {'PeLK-T', 'PeLK-101-T', 'ConvNeXt-T x 1.3', 'SLaK-T', 'SLaK-T, published'}
    assert [row['batch'] for row in results['steps']['batches']['float32, PeLK-T']['batches']] == [2, 4]
    assert 'checks: fft, float32' in (out / 'log.txt').read_text()
    page = (out / 'gpu.md').read_text()
    for heading in (
        'Whether the targets hold',
        'Checks',
        'The operator',
        'Inference',
        'A training step',
        'Batches that fit',
        'Kernel sizes',
    ):
        assert f'## {heading}\n' in page
    assert '| (1, 3, 9, 13) |' in page and '| PeLK-T | light head | float32 | 2 | 64 |' in page


def test_a_second_call_continues(measured, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out'
    shutil.copytree(measured[0], out)
    results = json.loads((out / 'results.json').read_text())
    results['steps']['checks']['fft, float32, float64 reference'] = dict(error='failed before')
    del results['steps']['sweep']
    (out / 'results.json').write_text(json.dumps(results))
    assert run_gpu(monkeypatch, '--out', out, '--steps', 'checks', *SMALL) == 1
    assert '1 failed:\nchecks: fft, float32, float64 reference: failed before' in capsys.readouterr().out
    assert run_gpu(monkeypatch, '--out', out, '--steps', 'checks', '--retry', *SMALL) == 0
    assert 'sweep' not in json.loads((out / 'results.json').read_text())['steps']
    monkeypatch.setattr(gpu_session, 'machine', lambda device: dict(device='another', date='today'))
    with pytest.raises(gpu_session.InputError, match='has results of another machine'):
        gpu_session.run_session(out, 'cpu', 1, small=True)


@pytest.fixture
def interrupts():
    """SIGINT ends processes that the test starts. They would inherit that it is ignored if the tests run in a shell's background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures('interrupts')
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_processes_too(number, tmp_path):
    command = [sys.executable, TOOLS / 'gpu.py', '--out', tmp_path, *SMALL]
    tool = subprocess.Popen(command, env=tool_env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (children := children_of(tool.pid)):
            assert tool.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        tool.send_signal(number)
        assert tool.wait(30) != 0
    finally:
        tool.kill()
    assert all(not Path(f'/proc/{child}').exists() for child in children)
    assert gpu_session.read_results(tmp_path)['machine']


def children_of(process):
    """Return the processes that measure on behalf of a process."""
    found = []
    for status in Path('/proc').glob('[0-9]*/stat'):
        try:
            is_child = int(status.read_text().rpartition(')')[2].split()[1]) == process
            if is_child and 'gpu_session import' in (status.parent / 'cmdline').read_text():
                found.append(int(status.parent.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def copy_documents(folder):
    for name in gpu_page.SENTENCES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


UNMEASURED = re.compile(r'(never|not|has) run on a GPU|not measured on a GPU|GPUs\S* (are )?\(?not measured', re.IGNORECASE)


def claims_nothing_was_measured(text):
    return UNMEASURED.search(' '.join(re.sub('<!--.*?-->', '', text).split()))


def test_no_document_says_that_nothing_was_measured(measured, tmp_path):
    """Every such sentence in the documents is between marks, and is replaced. Writing twice changes nothing more."""
    for page in (*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')):
        name, text = str(page.relative_to(ROOT)), page.read_text()
        assert not claims_nothing_was_measured(gpu_page.SENTENCE.sub('', text)), name
        assert name in gpu_page.SENTENCES or not gpu_page.SENTENCE.search(text)
    copy_documents(tmp_path)
    for _ in range(2):
        gpu_page.update_documents(gpu_session.read_results(measured[0]), tmp_path)
        for name in gpu_page.SENTENCES:
            text = (tmp_path / name).read_text()
            assert not claims_nothing_was_measured(text), name
            assert not re.search(r'^<!-- gpu', text, re.MULTILINE), 'Markdown would not format a line that begins with a comment'
    headings = re.findall(r'^#+ .*', (tmp_path / 'docs/benchmarks/gpu.md').read_text(), re.MULTILINE)
    assert len(headings) == len(set(headings)) and '## Whether the targets hold' in headings
    assert 'checks passed ([results](#whether-the-targets-hold))' in (tmp_path / 'docs/benchmarks/gpu.md').read_text()


def test_a_document_without_its_marks_leaves_all_unchanged(measured, tmp_path):
    copy_documents(tmp_path)
    (tmp_path / 'docs/reproducing.md').write_text('nothing')
    before = (tmp_path / 'README.md').read_bytes()
    with pytest.raises(gpu_session.InputError, match=r"reproducing.md must have the marks \['throughput'\]"):
        gpu_page.update_documents(gpu_session.read_results(measured[0]), tmp_path)
    assert (tmp_path / 'README.md').read_bytes() == before


def places(value, path=()):
    """Yield the path to each value in a tree of results."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def test_odd_results_never_stop_the_page(measured):
    """Each value is missing, None, zero, or of another type in turn."""
    text = (measured[0] / 'results.json').read_text()
    results = json.loads(text)
    results['steps']['kernels'] = {'registers': dict(variants=[dict(kernel='taps', capability=90)])}
    results['steps']['tests'] = dict(triton=dict(summary='3 passed'), loops={})
    row = next(iter(results['steps']['operator'].values()))
    results['steps']['operator']['parts'] = dict(row, title='sizes of the parts')
    text, seen = json.dumps(results), set()
    for path in places(results):
        if (kind := tuple('' if isinstance(key, int) else key for key in path)) in seen:
            continue
        seen.add(kind)
        for value in (None, 0, 'text', [], {}, ...):
            changed = json.loads(text)
            owner = changed
            for key in path[:-1]:
                owner = owner[key]
            if value is ...:
                del owner[path[-1]]
            else:
                owner[path[-1]] = value
            if isinstance(changed.get('steps'), dict):
                assert gpu_page.page_lines(changed)[0]


def test_a_profile_without_kernels(measured):
    results = gpu_session.read_results(measured[0])
    for item in results['steps']['profile'].values():
        item['total_ms'] = 0
    assert not any('cannot be shown' in line for line in gpu_page.page_lines(results))


def test_the_documents_are_written_between_their_marks(measured, tmp_path):
    copy_documents(tmp_path)
    results = gpu_session.read_results(measured[0])
    gpu_page.update_documents(results, tmp_path)
    for name in ('README.md', 'docs/benchmarks/gpu.md'):
        before, after = (ROOT / name).read_text(), (tmp_path / name).read_text()
        before, after = gpu_page.SENTENCE.sub('', before), gpu_page.SENTENCE.sub('', after)
        assert after.split(gpu_page.BEGIN)[0] == before.split(gpu_page.BEGIN)[0]
        assert after.split(gpu_page.END)[1] == before.split(gpu_page.END)[1]
        assert '| target | measured | holds |' in after.split(gpu_page.BEGIN)[1]
    assert '## The operator' in (tmp_path / 'docs/benchmarks/gpu.md').read_text()
    with pytest.raises(gpu_session.InputError, match='there are no results'):
        gpu_page.update_documents(dict(machine=None, steps={}), tmp_path)


def test_results_of_a_cpu_are_not_documented_as_those_of_a_gpu(measured, fail_tool, tmp_path):
    assert 'only those of a GPU with all sizes are documented' in fail_tool(
        'gpu.py', '--write-docs', '--out', measured[0], cwd=tmp_path
    )
    with pytest.raises(gpu_session.InputError, match='choose another folder'):
        gpu_session.run_session(measured[0], 'cpu', 1, small=False)


def test_wrong_arguments(fail_tool, tmp_path, monkeypatch):
    assert 'got -1' in fail_tool('gpu.py', '--minutes', -1, cwd=tmp_path)
    assert "--steps must be among ['checks'" in fail_tool('gpu.py', '--steps', 'nothing', *SMALL, cwd=tmp_path)
    if not torch.cuda.is_available():
        assert 'sees no GPU' in fail_tool('gpu.py', cwd=tmp_path)
    (tmp_path / 'work_dirs/gpu').mkdir(parents=True)
    (tmp_path / 'work_dirs/gpu/results.json').write_text('{')
    assert 'cannot read work_dirs/gpu/results.json' in fail_tool('gpu.py', *SMALL, cwd=tmp_path)
