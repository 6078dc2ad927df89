"""The effect of resized kernels, measured with a known model and known data."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmpelk.analysis.resizing_effect import TRAINED, effects_as_text, measure_effects, resized_variants
from mmpelk.models import PeLK
from mmpelk.utils.errors import InputError


class Scores(nn.Module):
    """A classifier of two classes whose logits are its input plus a shift."""

    def __init__(self, shift):
        super().__init__()
        self.shift = torch.tensor(shift)

    def data_preprocessor(self, batch):
        return batch

    def forward(self, inputs, mode):
        assert mode == 'tensor'
        return inputs + self.shift


def test_change_and_accuracy():
    batches = [
        dict(inputs=torch.tensor([[3.0, 0.0]]), data_samples=[SimpleNamespace(gt_label=torch.tensor([0]))]),
        dict(inputs=torch.tensor([[0.0, 4.0]]), data_samples=[SimpleNamespace(gt_label=torch.tensor([0]))]),
    ]
    variants = {TRAINED: Scores([0.0, 0.0]), 'shifted': Scores([5.0, 0.0])}
    count, effects = measure_effects(variants, batches)
    assert count == 2 and effects[TRAINED] == (0.0, 0.5)
    assert effects['shifted'].change == pytest.approx(2**0.5) and effects['shifted'].top1 == 1.0
    assert effects_as_text(effects).splitlines()[2].split() == ['shifted', '1.41e+00', '100.00']


def build():
    arch = dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    model = nn.Module()
    model.backbone = PeLK(arch=arch, kernel_sizes=(13, 13, 13, 13), small_kernel=None, norm_cfg=None)
    return model.eval()


def test_variants():
    model = build()
    x = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        variants = resized_variants(model, [21, 21, 21, 21], 7)
        outputs = {name: variant.backbone(x)[0] for name, variant in variants.items()}
    sizes = {name: variant.backbone.stages[0][0].token_mixer.large.grid.kernel_size for name, variant in variants.items()}
    there = {'extended outward', 'extend: there', 'stretch: there'}
    assert {name for name, size in sizes.items() if size == 21} == there and set(sizes.values()) == {13, 21}
    changes = {name: (output - outputs[TRAINED]).norm().item() for name, output in outputs.items()}
    assert changes[TRAINED] == 0 and changes['extended outward'] < 1e-4 * outputs[TRAINED].norm().item()
    assert all(changes[name] > 10 * changes['extended outward'] for name in ('stretch: there', 'random periphery'))
    trained, drawn = (variants[name].backbone.stages[0][0].token_mixer.large.weight for name in (TRAINED, 'random periphery'))
    assert trained.shape[-1] == 9 and torch.equal(trained[..., 2:7, 2:7], drawn[..., 2:7, 2:7])
    assert not (trained == drawn)[..., 0, :].any()


@pytest.mark.parametrize('sizes', [[21, 21, 21, 20], [11, 13, 13, 13]])
def test_invalid_sizes(sizes):
    with pytest.raises(InputError, match='the kernels cannot be resized to'):
        resized_variants(build(), sizes, 7)
