from small_models import in_wrappers
from torch import nn

from mmpelk.utils.wrappers import unwrap


def test_models_are_unwrapped():
    model = nn.ModuleDict(dict(module=nn.Linear(1, 1)))  # a name that wrappers use, too
    assert unwrap(model) is model and unwrap(in_wrappers(model)) is model
