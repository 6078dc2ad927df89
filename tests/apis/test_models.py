"""The classes of a model that is loaded from a checkpoint."""

import pytest
from mmengine.config import Config

from mmpelk.apis.models import dataset_meta
from mmpelk.utils.errors import InputError


@pytest.mark.parametrize('stored', [7, ['a'], dict(classes=7), dict(classes=[1, 2])], ids=str)
def test_classes_of_another_type_in_a_checkpoint(stored):
    with pytest.raises(
        InputError, match=r"checkpoint a.pth has .* as the classes in meta\['dataset_meta'\]; expected a list of names"
    ):
        dataset_meta(Config(), dict(meta=dict(dataset_meta=stored)), 'a.pth')


def test_classes_in_a_checkpoint():
    meta = dataset_meta(Config(), dict(meta=dict(dataset_meta=dict(classes=('a', 'b')))), 'a.pth')
    assert meta['classes'] == ('a', 'b') and len(meta['palette']) == 2
