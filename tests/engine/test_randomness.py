"""Random numbers depend only on the seed and the position in the training run."""

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from torch.utils.data import Dataset

from mmpelk.engine.randomness import PlacedSampler, ReproducibleDataset
from mmpelk.engine.runner import NamingRunner


class Numbers(Dataset):
    """Samples with their index and a number of each generator."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        assert type(index) is int
        return index, random.random(), np.random.rand(), torch.rand(1).item()


def loader(workers=0, sampler='InfiniteSampler', seed=3):
    init_default_scope('mmengine')
    return NamingRunner.build_dataloader(
        dict(
            dataset=Numbers(),
            sampler=dict(type=sampler, shuffle=True),
            batch_size=3,
            num_workers=workers,
            persistent_workers=workers > 0,
        ),
        seed=seed,
    )


def take(batches, count):
    return [tuple(zip(*next(batches), strict=True)) for _ in range(count)]


def test_the_workers_do_not_change_the_data():
    straight = take(iter(loader()), 6)
    assert take(iter(loader(workers=2)), 6) == straight
    assert take(iter(loader(seed=4)), 6) != straight
    drawn = [number for batch in straight for sample in batch for number in sample[1:]]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_sampler_that_never_ends_continues(workers):
    straight = take(iter(loader()), 6)
    resumed = loader(workers)
    if not hasattr(resumed.sampler.sampler, 'skip'):
        pytest.skip('this mmengine reads the skipped data')
    resumed.sampler.skip(4 * 3)
    assert take(iter(resumed), 2) == straight[4:]


@pytest.mark.parametrize('workers', [0, 2])
def test_each_epoch_draws_other_numbers_and_a_resumed_one_the_same(workers):
    straight = loader(sampler='DefaultSampler')
    epochs = []
    for epoch in range(3):
        straight.sampler.set_epoch(epoch)
        epochs.append(take(iter(straight), 3))
    assert epochs[0] != epochs[1] != epochs[2]
    resumed = loader(workers, sampler='DefaultSampler')
    resumed.sampler.set_epoch(2)
    assert take(iter(resumed), 3) == epochs[2]


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_loading_leaves_the_states_of_the_process():
    before, batches = states(), iter(loader())
    torch.rand(1)  # creating the iterator has drawn a number, too
    middle = states()
    next(batches)
    assert states() == middle and before[0] == middle[0]


def test_the_dataset_and_the_sampler_show_what_is_inside(tmp_path):
    (tmp_path / 'a.json').write_text('{"metainfo": {"classes": ["a"]}, "data_list": [{"img_path": "a.png"}]}')
    inner = BaseDataset(str(tmp_path / 'a.json'), lazy_init=True)
    dataset = ReproducibleDataset(inner)
    assert dataset.metainfo['classes'] == ['a'] and len(dataset) == 1 and dataset[0]['sample_idx'] == 0
    init_default_scope('mmengine')
    sampler = PlacedSampler(dict(type='DefaultSampler', shuffle=False), dataset)
    assert sampler.dataset is inner and len(sampler) == 1 and sampler.round_up
    sampler.set_epoch(5)
    assert [index.place for index in sampler] == [(0, 0, 5, 0)]
