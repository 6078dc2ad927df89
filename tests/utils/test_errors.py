"""Which errors are printed as one line, and which keep their traceback."""

import re
import subprocess
import sys

import pytest
import torch
from conftest import CONFIGS, ROOT
from mmengine.registry import MODELS, VISUALIZERS, init_default_scope
from torch import nn

from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError, argument_errors, build_errors, first_line, one_line_errors

DEMOS = dict(
    mmseg='upernet_pelk_atto_digits.py', mmdet='cascade_mask_rcnn_pelk_atto_digits.py', mmpretrain='pelk_atto_digits_cls.py'
)


@pytest.mark.parametrize(
    'error, line',
    [
        (ValueError('one\ntwo'), 'one'),
        (KeyError('no such key'), 'no such key'),
        (KeyError(), 'KeyError'),
        (AssertionError(), 'AssertionError'),
        (FileNotFoundError(2, 'No such file or directory', 'x'), "[Errno 2] No such file or directory: 'x'"),
    ],
    ids=repr,
)
def test_first_line(error, line):
    assert first_line(error) == line


@pytest.mark.parametrize(
    'error, line',
    [
        (InputError('image x.png does not exist'), 'image x.png does not exist'),
        (
            InputError('Caught InputError in DataLoader worker process 0.\nTraceback:\n  x\nmmpelk.utils.errors.InputError: no'),
            'no',
        ),
        (FileExistsError('out.pth exists already'), 'out.pth exists already'),
        (FileExistsError(17, 'File exists', 'work'), 'cannot use work: File exists'),
        (PermissionError(13, 'Permission denied', '/root/x'), 'cannot use /root/x: Permission denied'),
        (NotADirectoryError(20, 'Not a directory', 'a/b'), 'cannot use a/b: Not a directory'),
        (IsADirectoryError(), 'IsADirectoryError'),
        (FileNotFoundError(2, 'No such file or directory', 'gone/x'), 'cannot use gone/x: No such file or directory'),
        (OSError(36, 'File name too long', 'aaa'), 'cannot use aaa: File name too long'),
        (OSError(28, 'No space left on device'), '[Errno 28] No space left on device'),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize('traced', [False, True])
def test_input_errors_are_one_line(error, line, traced, monkeypatch, capsys):
    monkeypatch.setenv('MMPELK_TRACEBACK', '1' if traced else '0')
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    assert stop.value.code == 1
    *above, last = capsys.readouterr().err.splitlines()
    assert last == f'error: {line}'
    assert above[:1] == (['Traceback (most recent call last):'] if traced else [])


@pytest.mark.parametrize('error', [ValueError('x'), OSError('x'), OSError(9, 'Bad file descriptor'), KeyError('x')], ids=repr)
def test_other_errors_keep_their_traceback(error, capsys):
    with pytest.raises(type(error)), one_line_errors():
        raise error
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('error', [ValueError('size must be odd, got 2'), FileExistsError('a.pth exists')], ids=repr)
def test_rejected_arguments_are_input_errors(error):
    with pytest.raises(InputError, match=f'^{error}$') as caught, argument_errors():
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize('error', [TypeError('x'), FileNotFoundError('x'), KeyError('x')], ids=repr)
def test_errors_that_no_argument_causes_pass_through(error):
    with pytest.raises(type(error)) as caught, argument_errors():
        raise error
    assert caught.value is error


def build(scope, **options):
    init_default_scope(scope)
    with build_errors():
        MODELS.build(read_config(str(CONFIGS / 'demo' / DEMOS[scope]), options).model)


@pytest.mark.parametrize(
    'scope, options, message',
    [
        *((scope, {'model.type': 'Nope'}, f'Nope is not in the {scope}::model registry') for scope in DEMOS),
        *((scope, {'model.backbone.type': 'Nope'}, 'Nope is not in') for scope in DEMOS),
        *((scope, {'model.backbone.nope': 1}, r"PeLKConvNeXt.__init__\(\) got an unexpected .* 'nope'") for scope in DEMOS),
        *((scope, {'model.backbone': dict(_delete_=True, arch='atto')}, 'must contain the key "type"') for scope in DEMOS),
        *((scope, {'model.backbone.arch': 'huge'}, 'arch must be one of') for scope in DEMOS),
        # The heads pass these on to the constructors of their base classes.
        ('mmseg', {'model.decode_head.nope': 1}, r"BaseDecodeHead.__init__\(\) got an unexpected"),
        ('mmdet', {'model.rpn_head.nope': 1}, r"AnchorHead.__init__\(\) got an unexpected"),
        ('mmpretrain', {'model.head.nope': 1}, r"ClsHead.__init__\(\) got an unexpected"),
        ('mmseg', {'model.decode_head': dict(_delete_=True, type='UPerHead')}, r"BaseDecodeHead.__init__\(\) missing"),
        ('mmdet', {'model.roi_head': dict(_delete_=True, type='CascadeRoIHead')}, r"CascadeRoIHead.__init__\(\) missing"),
        ('mmpretrain', {'model.head': dict(_delete_=True, type='LinearClsHead')}, r"LinearClsHead.__init__\(\) missing"),
        ('mmseg', {'model.decode_head.in_index': 9}, 'AssertionError'),
        ('mmdet', {'model.roi_head.bbox_head': None}, 'AssertionError'),
        ('mmpretrain', {'model.head.num_classes': 0}, 'num_classes=0 must be a positive integer'),
    ],
)  # fmt: skip
def test_wrong_configs_are_input_errors(scope, options, message):
    if scope == 'mmdet':
        pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
    with pytest.raises(
        InputError, match=rf'the config cannot be built: .*{message}.*\(MMPELK_TRACEBACK=1 shows where\)$'
    ) as caught:
        build(scope, **options)
    assert '\n' not in str(caught.value) and caught.value.__cause__ is not None


@pytest.mark.parametrize('kind', ['mmengine.Visualizer', 'mmseg.SegLocalVisualizer'])
def test_wrong_visualizers_are_input_errors(kind):
    """mmengine builds visualizers through its own class method."""
    init_default_scope('mmseg')
    with pytest.raises(InputError, match=r'built: Visualizer.__init__\(\) got an unexpected'), build_errors():
        VISUALIZERS.build(dict(type=kind, name=f'wrong {kind}', nope=1))


def no_such_key():
    return {}['weight']


def failing_assertion():
    raise AssertionError('of the model')


BUGS = {
    'key': (KeyError, no_such_key),
    'type': (TypeError, lambda: torch.zeros(1) + 'x'),
    'attribute': (AttributeError, lambda: torch.zeros(1).nope),
    'value': (ValueError, lambda: int('x')),
    'assertion': (AssertionError, failing_assertion),
    'arguments of a part': (TypeError, lambda: nn.Linear(3)),
    'arguments of a function': (TypeError, lambda: no_such_key(1)),
}


@pytest.mark.parametrize('name', BUGS)
@pytest.mark.parametrize('where', ['constructor', 'method'])
def test_bugs_of_a_model_are_not_input_errors(name, where):
    error, raises = BUGS[name]

    class Buggy(nn.Module):
        def __init__(self, channels):
            super().__init__()
            raises() if where == 'constructor' else self.make()

        def make(self):
            raises()

    MODELS.register_module(name='BuggyForTests', module=Buggy)
    try:
        with pytest.raises(error) as caught, build_errors():
            MODELS.build(dict(type='BuggyForTests', channels=3))
        assert not isinstance(caught.value, InputError)
        with pytest.raises(InputError, match=r"Buggy.__init__\(\) missing 1 required .* 'channels'"), build_errors():
            MODELS.build(dict(type='BuggyForTests'))
    finally:
        del MODELS.module_dict['BuggyForTests']


MMPRETRAIN = """
from mmpelk.utils.torchvision_compat import declare_missing_operators
declare_missing_operators()
from mmengine.registry import MODELS
import mmpelk
MODELS.build(dict(type='GrownBackbone', backbone=dict(type='mmpretrain.ConvNeXt', arch='atto'), kernel_sizes=51))
"""


def test_mmpretrain_next_to_transformers():
    """``make test-transformers`` runs this test."""
    pytest.importorskip('transformers')
    result = subprocess.run([sys.executable, '-c', MMPRETRAIN], cwd=ROOT, capture_output=True, text=True)
    if result.returncode == 0:
        pytest.skip('this mmpretrain works next to this transformers')
    assert re.search(
        r'InputError: mmpretrain cannot be imported next to transformers 5.* \(NoneType takes no arguments\); uninstall transformers',
        result.stderr,
    )
