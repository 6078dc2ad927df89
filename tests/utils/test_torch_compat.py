"""Functions before and after the steps of an optimizer, even if something else wraps or patches its ``step``."""

import pytest
import torch
from torch import nn

from mmpelk.utils.torch_compat import hook_steps


def compile_first(optimizer):
    # After this call, torch 2.1 ignores the step hooks of every optimizer.
    torch.compile(nn.Linear(1, 1), backend='eager')(torch.ones(1, 1))


def schedule(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


@pytest.mark.parametrize('others', [(), (compile_first,), (schedule,), (compile_first, schedule)])
@pytest.mark.parametrize('when', ['before', 'after'])
def test_each_step_calls_the_functions_once(others, when, recwarn):
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    calls = []

    def hook(name):
        return hook_steps(
            optimizer, lambda: calls.append((name, weight.item())), lambda: calls.append((f'/{name}', weight.item()))
        )

    if when == 'after':
        handles = [hook('a'), hook('b')]
    schedulers = [other(optimizer) for other in others]
    if when == 'before':
        handles = [hook('a'), hook('b')]
    for _ in range(2):
        weight.grad = torch.ones(1)
        optimizer.step()
        for scheduler in filter(None, schedulers):
            scheduler.step()
    rate = 0.25 if schedule in others else 0.5
    assert calls == [
        *(('b', 1), ('a', 1), ('/a', 0.5), ('/b', 0.5)),
        *(('b', 0.5), ('a', 0.5), ('/a', 0.5 - rate), ('/b', 0.5 - rate)),
    ]
    handles[0].remove()
    calls.clear()
    optimizer.step()
    assert [name for name, _ in calls] == ['b', '/b']
    assert not [warning for warning in recwarn if 'optimizer.step' in str(warning.message)]


def test_the_closure_and_its_loss_pass_through():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    hook_steps(optimizer, lambda: None, lambda: None)
    assert optimizer.step(lambda: 3.0) == 3.0
