"""The choice of the fastest backend. GPUs and clocks are simulated, so no real time decides a test."""

import json
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmpelk.analysis.gpu_checks import deterministic_algorithms
from mmpelk.analysis.gpu_compilation import COMPUTE
from mmpelk.analysis.plain_networks import plain_backbone
from mmpelk.ops import SharingGrid, autotune
from mmpelk.ops.cells import crop
from mmpelk.ops.layout import memory_format
from mmpelk.utils.errors import InputError

CELLS = (1, 3, 1)


class Recorder:
    """Backends that compute nothing, and a clock with a given time for each of them, in seconds or as an error."""

    def __init__(self, **times):
        self.times, self.calls = times, []
        for name in times:
            setattr(
                self, name, SimpleNamespace(forward=self.record(name, 'forward'), weight_grad=self.record(name, 'weight_grad'))
            )

    def record(self, name, direction):
        def function(*arguments):
            self.calls.append((name, direction))
            self.arguments = arguments

        return function

    def seconds(self, call, device):
        call()
        time = self.times[self.calls[-1][0]]
        if isinstance(time, Exception):
            raise time
        return time


@pytest.fixture
def recorder(monkeypatch):
    """Three backends, of which b is the fastest, on a device that may be timed."""
    recorder = Recorder(a=9.0, b=1.0, c=2.0)
    monkeypatch.setattr(autotune, '_FASTEST', {})
    monkeypatch.setattr(autotune, '_read', set())
    monkeypatch.delenv(autotune.FILE, raising=False)
    monkeypatch.setattr(autotune, 'may_measure', lambda device: True)
    monkeypatch.setattr(autotune, '_seconds', recorder.seconds)
    return recorder


def fastest(recorder, *shape, names='abc', backward=False, cells=CELLS, layout=torch.contiguous_format):
    candidates = {name: getattr(recorder, name) for name in names}
    return autotune.fastest(candidates, torch.empty(shape, memory_format=layout), cells, cells, backward)


def test_the_fastest_backend_is_measured_once_for_each_class_of_sizes(recorder):
    assert fastest(recorder, 2, 3, 9, 9) is recorder.b
    assert recorder.calls == [('a', 'forward'), ('b', 'forward'), ('c', 'forward')]
    assert fastest(recorder, 2, 3, 12, 10) is recorder.b
    assert len(recorder.calls) == 3
    recorder.times.update(c=0.5)  # a new measurement would return c
    assert fastest(recorder, 3, 2, 8, 8) is recorder.b
    assert fastest(recorder, 2, 3, 16, 9) is recorder.c  # 144 positions are not within 32 to 127
    assert len(recorder.calls) == 6


@pytest.mark.parametrize(
    'other',
    [dict(backward=True), dict(cells=(1, 1, 1, 1, 1)), dict(cells=(5, 3, 5)), dict(layout=torch.channels_last)],
    ids=str,
)
def test_passes_kernels_and_layouts_are_measured_separately(recorder, other):
    fastest(recorder, 2, 3, 9, 9)
    recorder.times.update(a=0.5)
    assert fastest(recorder, 2, 3, 9, 9, **other) is recorder.a
    direction = 'weight_grad' if other.get('backward') else 'forward'
    assert recorder.calls[3:] == [('a', direction), ('b', direction), ('c', direction)]


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_the_convolution_is_timed_into_the_layout_of_the_map(recorder, layout):
    x = torch.empty(2, 7, 9, 9, memory_format=layout)[:, :3]
    autotune.fastest(dict(a=recorder.a, b=recorder.b), x, CELLS, CELLS, False)
    out = recorder.arguments[-1]
    assert out.shape == x.shape and out.is_contiguous(memory_format=layout)


def test_the_backbone_calls_the_operator_in_one_layout():
    """Training would otherwise time the backends for each layout."""
    layouts = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in COMPUTE:
                layouts.append(memory_format(args[0]))
            return function(*args, **(kwargs or {}))

    backbone = plain_backbone('PeLK-T', True, depths=(1, 1, 1, 1), channels=(8, 16, 16, 16))
    with Record():
        sum(output.square().sum() for output in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert layouts == 4 * 2 * 3 * [torch.channels_last]  # stages, branches, and calls in both passes


def test_many_classes_reuse_the_nearest(recorder, monkeypatch):
    monkeypatch.setattr(autotune, 'MAX_CLASSES', 2)
    assert fastest(recorder, 1, 1, 4, 4) is recorder.b
    recorder.times.update(a=0.5)
    assert fastest(recorder, 1, 1, 100, 100) is recorder.a
    assert len(recorder.calls) == 6
    assert fastest(recorder, 1, 1, 9, 9) is recorder.b and fastest(recorder, 1, 1, 60, 60) is recorder.a
    assert len(recorder.calls) == 6
    assert fastest(recorder, 1, 1, 9, 9, cells=(1, 1, 1, 1, 1)) is recorder.a  # another kernel has classes of its own
    assert len(recorder.calls) == 9


def test_the_number_of_measurements_of_training_on_coco(recorder):
    """PeLK-T on all batches of COCO's training: sides that are multiples of 32, from 384 to 800 and 1344 pixels, 2 images."""
    sizes = [(h, w) for h, w in product(range(384, 1345, 32), repeat=2) if min(h, w) <= 800]
    stages = [(46, 4, 51), (93, 8, 49), (187, 16, 47), (374, 32, 13)]
    for (channels, stride, kernel_size), (h, w) in product(stages, sizes):
        for cells in (SharingGrid.peripheral(kernel_size).cells, (1,) * 5):  # the large kernel and the small branch
            cropped = crop(cells, h // stride)[0], crop(cells, w // stride)[0]
            for backward in (False, True):
                candidates = dict(a=recorder.a, b=recorder.b)
                x = torch.empty(2, channels, h // stride, w // stride, device='meta', memory_format=torch.channels_last)
                autotune.fastest(candidates, x, *cropped, backward)
    assert len(recorder.calls) == 2 * 30  # two candidates each


def test_a_function_that_two_backends_share_is_timed_once(recorder):
    recorder.c.weight_grad = recorder.a.weight_grad
    fastest(recorder, 2, 3, 9, 9, backward=True)
    assert recorder.calls == [('a', 'weight_grad'), ('b', 'weight_grad')]


def test_choices_are_kept_in_a_file(recorder, monkeypatch, tmp_path):
    path = tmp_path / 'new/choices.json'
    monkeypatch.setenv(autotune.FILE, str(path))
    assert fastest(recorder, 2, 3, 9, 9) is recorder.b
    (kernel,) = json.loads(path.read_text()).items()
    assert 'torch.float32, contiguous_format, convolution' in kernel[0] and kernel[1] == {'1 3': 'b'}

    def restart():
        monkeypatch.setattr(autotune, '_FASTEST', {})
        monkeypatch.setattr(autotune, '_read', set())

    restart()
    recorder.times.update(a=0.5)
    assert fastest(recorder, 2, 3, 9, 9) is recorder.b and len(recorder.calls) == 3
    assert fastest(recorder, 2, 3, 90, 90) is recorder.a  # a new class is added
    assert list(json.loads(path.read_text())[kernel[0]].values()) == ['b', 'a']
    assert fastest(recorder, 2, 3, 9, 9, names='ac') is recorder.a  # the stored backend is not available
    restart()
    path.write_text('[]')
    with pytest.raises(InputError, match='is not a file of choices of mmpelk'):
        fastest(recorder, 2, 3, 9, 9)


def test_an_error_excludes_a_backend(recorder):
    recorder.times.update(b=torch.cuda.OutOfMemoryError('no memory'))
    assert fastest(recorder, 2, 3, 9, 9) is recorder.c


def test_the_first_error_is_raised_if_all_backends_fail(recorder):
    recorder.times.update(a=TypeError('first'), b=RuntimeError('second'), c=RuntimeError('third'))
    with pytest.raises(TypeError, match='first'):
        fastest(recorder, 2, 3, 9, 9)
    recorder.times.update(c=1.0)  # the failure is not stored
    assert fastest(recorder, 2, 3, 9, 9) is recorder.c


def test_measuring_draws_no_random_numbers(recorder):
    state = torch.get_rng_state()
    fastest(recorder, 2, 3, 9, 9)
    assert len(recorder.calls) == 3 and torch.equal(state, torch.get_rng_state())


def test_the_first_backend_is_used_where_nothing_may_be_measured(recorder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(autotune, 'may_measure', lambda device: False)
        assert fastest(recorder, 2, 3, 9, 9) is recorder.a
    assert recorder.calls == []
    assert fastest(recorder, 2, 3, 9, 9) is recorder.b  # the unmeasured choice is not stored


def test_deterministic_algorithms_ignore_measurements(recorder):
    assert fastest(recorder, 2, 3, 9, 9) is recorder.b
    with deterministic_algorithms():
        assert fastest(recorder, 2, 3, 9, 9) is recorder.a
    assert len(recorder.calls) == 3


def test_single_candidates_and_empty_inputs_are_not_measured(recorder):
    assert fastest(recorder, 2, 3, 9, 9, names='c') is recorder.c
    assert fastest(recorder, 0, 3, 9, 9) is recorder.a
    assert recorder.calls == []


def test_may_measure(monkeypatch):
    capturing = False
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: capturing)
    gpu = torch.device('cuda')
    assert autotune.may_measure(gpu) and not autotune.may_measure(torch.device('cpu'))
    capturing = True
    assert not autotune.may_measure(gpu)
    capturing = False
    with deterministic_algorithms():
        assert not autotune.may_measure(gpu)


def test_the_time_is_the_shortest_of_three_calls_after_a_warm_up(monkeypatch):
    """The GPU computes asynchronously: each reading of the clock must follow a synchronization."""
    durations, now, pending = iter([1.0, 9.0, 4.0, 6.0]), 0.0, 0.0

    def call():
        nonlocal pending
        pending += next(durations)

    def synchronize(device):
        nonlocal now, pending
        now, pending = now + pending, 0.0

    monkeypatch.setattr(torch.cuda, 'synchronize', synchronize)
    monkeypatch.setattr(autotune.time, 'perf_counter', lambda: now)
    assert autotune._seconds(call, torch.device('cuda')) == 4.0
    assert next(durations, None) is None
