"""The shortcuts in inference on CPUs, reused folded weights and MLPs in pieces, do not change the results."""

import copy
import pickle

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from small_models import randomized
from torch import nn
from torch._subclasses import FakeTensorMode

from mmpelk.models import block, plain_inference, token_mixer
from mmpelk.models.plain_inference import is_plain_inference
from mmpelk.models.token_mixer import TokenMixer

CPU = torch.device('cpu')
CHANGES = dict(
    weight=lambda mixer: mixer.large.weight.mul_(2),
    weight_data=lambda mixer: mixer.large.weight.data.mul_(2),
    small_kernel=lambda mixer: mixer.small.weight.data.add_(1),
    statistic=lambda mixer: mixer.large_norm.running_mean.add_(1),
    variance=lambda mixer: mixer.small_norm.running_var.data.mul_(3),
    norm=lambda mixer: mixer.small_norm.bias.data.sub_(1),
    pos_embed=lambda mixer: mixer.pos_embed.bias.data.add_(1),
    parameter=lambda mixer: setattr(mixer.large, 'weight', nn.Parameter(mixer.large.weight * 2)),
    checkpoint=lambda mixer: mixer.load_state_dict({name: 2 * value for name, value in mixer.state_dict().items()}),
    mode=lambda mixer: mixer.small_norm.train(),
)


def forward(model, image, monkeypatch=None):
    """Return the last map, without the shortcuts if ``monkeypatch`` is given."""
    if monkeypatch is None:
        return model(image)[-1]
    with monkeypatch.context() as patch:
        for module in (block, token_mixer):
            patch.setattr(module, 'is_plain_inference', lambda device: False)
        return model(image)[-1]


@pytest.mark.parametrize('change', CHANGES)
@torch.no_grad()
def test_folded_weights_are_reused_until_a_value_changes(change, monkeypatch):
    model, image, calls, merge = randomized().eval(), torch.randn(2, 3, 64, 64), [], TokenMixer._merge
    monkeypatch.setattr(TokenMixer, '_merge', lambda self, *args: calls.append(self) or merge(self, *args))
    before = forward(model, image)
    assert len(calls) == 6
    assert torch.equal(forward(model, image), before) and len(calls) == 6
    CHANGES[change](model.stages[0][0].token_mixer)
    after = forward(model, image)
    torch.testing.assert_close(after, forward(model, image, monkeypatch), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before, rtol=1e-3)


def test_folded_weights_do_not_leave_their_context():
    """Autograd cannot use tensors of inference mode, and folded weights without a graph would lose gradients."""
    model, image = randomized().eval(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = forward(model, image)
    with torch.no_grad():
        assert torch.equal(forward(model, image), expected)
    output = forward(model, image)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    output.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.stages[0][0].token_mixer.parameters())


@torch.no_grad()
def test_copies_and_pickles_have_no_folded_weights():
    model, image = randomized().eval(), torch.randn(1, 3, 64, 64)
    empty = len(pickle.dumps(model))
    keys = list(model.state_dict())
    expected = forward(model, image)
    assert len(pickle.dumps(model)) == empty and list(model.state_dict()) == keys
    twin = copy.deepcopy(model)
    assert all(part.token_mixer._merged is None for stage in twin.stages for part in stage)
    assert torch.equal(forward(twin, image), expected)


@pytest.mark.parametrize('hidden_bytes', [1, 3000, 2**22])
@pytest.mark.parametrize('options', [{}, dict(layer_scale_init_value=0.0)], ids=str)
@torch.no_grad()
def test_pieces_do_not_change_the_result(options, hidden_bytes, monkeypatch):
    model, image = randomized(**options).double().eval(), torch.randn(2, 3, 70, 64, dtype=torch.double)
    monkeypatch.setattr(block, 'HIDDEN_BYTES', hidden_bytes)
    torch.testing.assert_close(forward(model, image), forward(model, image, monkeypatch), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_hidden_layer_of_a_piece_has_at_most_hidden_bytes(monkeypatch):
    model, sizes = randomized().eval(), []
    monkeypatch.setattr(block, 'HIDDEN_BYTES', 5000)
    for stage in model.stages:
        stage[0].act.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel() * 4))
    forward(model, torch.randn(2, 3, 64, 64))
    assert max(sizes) <= 5000 and len(sizes) > 40  # four hooks saw more than four pieces


@torch.no_grad()
def test_autocast_does_not_use_pieces(monkeypatch):
    monkeypatch.setattr(block, 'HIDDEN_BYTES', 1)
    model, image = randomized().eval(), torch.randn(1, 3, 64, 64)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = forward(model, image)
    torch.testing.assert_close(output.float(), forward(model, image), rtol=0.1, atol=0.1)


def test_plain_inference():
    """Everything that records more than values is excluded."""
    assert not is_plain_inference(CPU)
    seen = []

    def record(x):
        seen.append(is_plain_inference(CPU))
        return x * 2

    with torch.no_grad():
        assert is_plain_inference(CPU) and not is_plain_inference(torch.device('meta'))
        torch.vmap(record)(torch.ones(2))
        torch.func.jvp(record, (torch.ones(2),), (torch.ones(2),))
        torch.jit.trace(record, (torch.ones(2),), check_trace=False)
        torch.compile(lambda x: x + plain_inference.is_plain_inference(CPU), backend='eager')(torch.ones(1))
        with forward_ad.dual_level():
            record(torch.ones(2))
        with FakeTensorMode():
            record(torch.ones(2))
    assert seen == [False] * 5
    with torch.inference_mode():
        assert is_plain_inference(CPU)
