"""Random numbers that depend only on the seed and on the position in the training run.

mmengine saves no random states, and those of the data loader's workers cannot be saved, because the workers prefetch. Here, the random
states with which a sample is augmented depend only on the seed, the process, the epoch, and the sample's place in the epoch. The states
at the start of a training iteration depend only on the seed, the process, and the iteration, so stochastic depth and mixup differ between
GPUs. A resumed run therefore draws the same numbers as an uninterrupted one, and the data do not depend on the number of workers.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS
from mmengine.runner import Runner
from torch.utils.data import Dataset, Sampler


class PlacedIndex(int):
    """The index of a sample, with its place in the training run in ``place``, a tuple of integers of at least 0."""

    place: tuple[int, ...]


@DATA_SAMPLERS.register_module()
class PlacedSampler(Sampler):
    """A sampler whose indices have a place: the seed, the process, the epoch, and the number of earlier samples in the epoch.

    It works for samplers that have an ``epoch``, such as DefaultSampler, and for those that never end, such as InfiniteSampler.

    Args:
        sampler (dict): Config of the sampler that draws the indices.
        dataset (Dataset): The dataset.
        seed (int, optional): The seed. With None, the sampler draws its own seed, and the places contain 0. Defaults to None.
    """

    def __init__(self, sampler: dict, dataset: Dataset, seed: int | None = None) -> None:
        # Some samplers and batch samplers of mmdet check the dataset's type.
        self.dataset = dataset.dataset if isinstance(dataset, ReproducibleDataset) else dataset
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=self.dataset, seed=seed))
        self.origin = (seed or 0, get_rank())
        self.drawn = 0
        if hasattr(self.sampler, 'skip'):
            self.skip = self._skip

    def __getattr__(self, name: str) -> Any:
        if name == 'sampler':  # before __init__ has set it, as while unpickling
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[PlacedIndex]:
        epoch = getattr(self.sampler, 'epoch', None)
        if epoch is not None:
            self.drawn = 0
        for index in self.sampler:
            placed = PlacedIndex(index)
            placed.place = (*self.origin, epoch or 0, self.drawn)
            self.drawn += 1
            yield placed

    def _skip(self, num_samples: int) -> None:
        """Skip samples from the start, as mmengine does to resume."""
        self.sampler.skip(num_samples)
        self.drawn = num_samples


@DATASETS.register_module()
class ReproducibleDataset(Dataset):
    """A dataset that loads each sample with the random states of its place, and then restores the states of the process.

    Args:
        dataset (dict | Dataset): The dataset, or its config.
    """

    def __init__(self, dataset: dict | Dataset) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # before __init__ has set it, as while unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, PlacedIndex):
            return self.dataset[index]
        with _random_states(index.place):
            return self.dataset[int(index)]


@HOOKS.register_module()
class ReproducibleIterationsHook(Hook):
    """Start each training iteration from random states that depend only on the seed, the process, and the iteration."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the random states."""
        _seed((runner.seed, get_rank(), runner.iter))


@contextlib.contextmanager
def _random_states(place: tuple[int, ...]) -> Iterator[None]:
    """Set the random states of Python, NumPy, and torch on the CPU to those of a place until the context ends."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _seed(place, gpu=False)
    try:
        yield
    finally:
        for restore, state in zip((random.setstate, np.random.set_state, torch.set_rng_state), states, strict=True):
            restore(state)


def _seed(place: tuple[int, ...], gpu: bool = True) -> None:
    """Set the random states of Python, NumPy, and torch to those of a place."""
    python, numpy, cpu = (int(seed) for seed in np.random.SeedSequence(place).generate_state(3))
    random.seed(python)
    np.random.seed(numpy)
    (torch.manual_seed if gpu else torch.default_generator.manual_seed)(cpu)
