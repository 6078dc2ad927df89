import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmpelk.checkpoints import check_fit, check_prefix
from mmpelk.checkpoints.fit import resized_shapes
from mmpelk.models import PeLK, grow_kernels, growing, state_dict
from mmpelk.ops import resizing
from mmpelk.utils.errors import InputError

ARCH = dict(depths=(1, 1, 1, 1), channels=(16, 16, 16, 16))
KERNELS = ((0, 0), (0, 1), (1, 0), (3, 0))  # the stage and block of each kernel that is resized


def test_names_and_shapes():
    model = nn.Linear(2, 3)
    good = model.state_dict()
    check_fit(good, model, 'x.pth')
    check_fit({**good, 'more': torch.zeros(1)}, model, 'x.pth', strict=False)
    check_fit({'weight': good['weight']}, model, 'x.pth', strict=False)
    for weights, message in (
        ({**good, 'more': torch.zeros(1)}, r'1 are unexpected \(more\)'),
        ({'weight': good['weight']}, r'1 of 2 tensors fit, 1 are missing \(bias\)'),
        ({**good, 'bias': torch.zeros(4)}, r'1 have another shape \(bias is \(4,\), the model needs \(3,\)\)'),
    ):
        with pytest.raises(InputError, match=message):
            check_fit(weights, model, 'x.pth')
    with pytest.raises(InputError, match='x.pth belongs to another model: 0 of 2 tensors fit, 2 are missing .weight.'):
        check_fit({}, model, 'x.pth', strict=False)


def count_resizing(monkeypatch):
    """Return two lists that receive the sizes of the kernels that are resized, on the meta device and as real tensors."""
    meta, real = [], []
    resize = resizing.resize_weight

    def count(weight, *args):
        (meta if weight.is_meta else real).append(weight.shape[-1])
        return resize(weight, *args)

    for module in (resizing, state_dict, growing):
        monkeypatch.setattr(module, 'resize_weight', count)
    return meta, real


def test_grown_kernels_are_resized_once(monkeypatch):
    small, large = (nn.Sequential(nn.Conv2d(4, 4, 7, padding=3, groups=4)) for _ in range(2))
    grow_kernels(small, 21)
    grow_kernels(large, 31)
    meta, real = count_resizing(monkeypatch)
    check_fit(small.state_dict(), large, 'x.pth')
    assert len(meta) == 1 and real == []
    large.load_state_dict(small.state_dict())
    assert len(meta) == len(real) == 1


def test_kernels_of_other_grids_fit_and_are_resized_once(monkeypatch):
    """The check resizes kernels on the meta device. Only loading resizes real tensors, each kernel once."""
    arch = dict(depths=(2, 1, 1, 1), channels=(16, 16, 16, 16))
    weights = PeLK(arch).state_dict()
    larger = PeLK(arch, kernel_sizes=(53, 69, 47, 15))  # stage 3 keeps its grid
    meta, real = count_resizing(monkeypatch)
    check_fit(weights, larger, 'x.pth')
    sizes = [weights[f'stages.{stage}.{block}.token_mixer.large.weight'].shape[-1] for stage, block in KERNELS]
    assert meta == sizes and real == []
    larger.load_state_dict(weights)
    assert meta == sizes and real == sizes
    with pytest.raises(InputError, match='was trained with other kernels .stage 1: kernels 51x51'):
        check_fit(weights, larger, 'x.pth', resize=False)


def test_resized_shapes_leaves_the_weights_unchanged():
    model = nn.ModuleDict(dict(teacher=PeLK(ARCH, kernel_sizes=(53, 49, 47, 13)), student=PeLK(ARCH)))
    weights = nn.ModuleDict(dict(teacher=PeLK(ARCH), student=PeLK(ARCH))).state_dict()
    before = dict(weights)
    shapes, lines = resized_shapes(weights, model)
    assert {name: value.shape for name, value in shapes.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert len(lines) == 1 and lines[0].startswith('stage 1: kernels 51x51')
    assert all(value.is_meta for name, value in shapes.items() if not name.endswith('half_grid'))
    assert weights == before and not any(value.is_meta for value in weights.values())


def test_a_kernel_that_does_not_match_its_grid():
    weights = PeLK(ARCH).state_dict()
    name = 'stages.0.0.token_mixer.large.weight'
    weights[name] = weights[name][..., :11, :11]
    with pytest.raises(InputError, match=rf'{name}: weight must have shape'):
        check_fit(weights, PeLK(ARCH, kernel_sizes=(53, 49, 47, 13)), 'x.pth')
    with pytest.raises(InputError, match=rf'1 have another shape .{name}'):
        check_fit(weights, PeLK(ARCH), 'x.pth')
    # Without a half grid, a kernel is not resized, so it must have the model's shape.
    del weights['stages.0.0.token_mixer.large.half_grid']
    with pytest.raises(InputError, match=rf'1 have another shape .{name}'):
        check_fit(weights, PeLK(ARCH), 'x.pth', strict=False)


def test_a_kernel_without_its_half_grid():
    weights = PeLK(ARCH).state_dict()
    half_grid = 'stages.0.0.token_mixer.large.half_grid'
    del weights[half_grid]
    with pytest.raises(InputError, match=rf' 1 are missing .{half_grid}'):
        check_fit(weights, PeLK(ARCH), 'x.pth')
    check_fit(weights, PeLK(ARCH), 'x.pth', strict=False)
    name = 'stages.0.0.token_mixer.large.weight'
    with pytest.raises(InputError, match=rf'{name} is .7, 1, 13, 13., the model needs .7, 1, 15, 15.'):
        check_fit(weights, PeLK(ARCH, kernel_sizes=(101, 49, 47, 13)), 'x.pth', strict=False)


def test_a_half_grid_without_its_kernel():
    weights = PeLK(ARCH).state_dict()
    name = 'stages.0.0.token_mixer.large.weight'
    del weights[name]
    with pytest.raises(InputError, match=rf'1 are missing .{name}'):
        check_fit(weights, PeLK(ARCH, kernel_sizes=(53, 49, 47, 13)), 'x.pth')


def test_a_positional_embedding_of_the_wrong_size():
    weights = PeLK(ARCH).state_dict()
    name = 'stages.0.0.token_mixer.pos_embed.bias'
    weights[name] = weights[name][:, 1:-1, 1:-1]
    for strict in (True, False):
        with pytest.raises(InputError, match=rf'1 have another shape .{name} is .1, 49, 49., the model needs .1, 51, 51.'):
            check_fit(weights, PeLK(ARCH), 'x.pth', strict)


def test_other_kernel_forms_are_another_model():
    stripes = PeLK(ARCH, kernel_form='stripe', pos_embed=None).state_dict()
    with pytest.raises(InputError, match=r'28 are missing \(.*\), 48 are unexpected \(.*large\.vertical\.weight\)'):
        check_fit(stripes, PeLK(ARCH, pos_embed=None), 'x.pth')


def test_missing_depthwise_kernels_are_never_accepted():
    """More than half of the tensors fit, but the kernels would remain random."""
    model = nn.ModuleDict(dict(backbone=PeLK(ARCH)))
    weights = {name: value for name, value in model.state_dict().items() if not name.endswith('large.weight')}
    with pytest.raises(InputError, match=r'4 are missing \(backbone.stages.0.0.token_mixer.large.weight\)'):
        check_fit(weights, model, 'x.pth', strict=False)


def grown(sizes=(51, 13)):
    parts = [nn.Conv2d(width, width, 7, padding=3, groups=width) for width in (4, 6)]
    backbone = nn.Sequential(parts[0], nn.Conv2d(4, 6, 1), parts[1])
    model = nn.ModuleDict(dict(backbone=backbone, head=nn.Linear(6, 2)))
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    grow_kernels(model, sizes)
    return model, plain


def test_grown_kernels():
    model, plain = grown()
    check_fit(plain, model, 'x.pth')
    check_fit(model.state_dict(), model, 'x.pth', resize=False)
    assert 'backbone.0.half_grid' not in plain  # the check changes nothing
    with pytest.raises(InputError, match=r'was trained with other kernels \(backbone.0.weight: 7x7 kernel'):
        check_fit(plain, model, 'x.pth', resize=False)
    check_fit(grown((101, 51))[0].state_dict(), model, 'x.pth')
    head = {'head.weight': torch.zeros(3, 6), 'head.bias': torch.zeros(3)}
    check_fit({**plain, **head}, model, 'x.pth', strict=False)
    for change, message in (
        (
            {'backbone.0.weight': torch.zeros(5, 1, 7, 7)},
            '1 have another shape .backbone.0.weight is .5, 1, 7, 7., the model needs',
        ),
        ({'backbone.1.weight': torch.zeros(6, 5, 1, 1)}, '1 have another shape .backbone.1.weight'),
        ({'backbone.0.weight': None}, '1 are missing .backbone.0.weight.'),
        ({'backbone.0.half_grid': torch.tensor([9, 1])}, 'backbone.0.weight: weight must have shape'),
    ):
        weights = {name: value for name, value in {**plain, **change}.items() if value is not None}
        with pytest.raises(InputError, match=message):
            check_fit(weights, model, 'x.pth', strict=False)


def test_prefixes():
    checkpoint = dict(state_dict={'module.backbone.a': torch.zeros(1), 'head.b': torch.zeros(1)})
    check_prefix(checkpoint, 'backbone.', 'x.pth')
    with pytest.raises(InputError, match="x.pth has no weights under prefix 'neck.': its names begin with backbone., head.$"):
        check_prefix(checkpoint, 'neck.', 'x.pth')
    with pytest.raises(InputError, match="under prefix '': it contains no weights$"):
        check_prefix(dict(meta={}), '', 'x.pth')


def test_a_head_for_other_classes_may_differ_without_strict():
    cfg = Config.fromfile(CONFIGS / 'demo/pelk_atto_digits_cls.py')
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    weights = model.state_dict()
    weights['head.fc.weight'], weights['head.fc.bias'] = torch.zeros(1000, 416), torch.zeros(1000)
    check_fit(weights, model, 'x.pth', strict=False)
    with pytest.raises(InputError, match='2 have another shape .head.fc.weight is .1000, 416., the model needs .10, 416.'):
        check_fit(weights, model, 'x.pth')
