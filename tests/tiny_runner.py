"""A runner that trains a linear layer, or another model, for a few iterations."""

from __future__ import annotations

from uuid import uuid4

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel

from mmpelk.engine.runner import NamingRunner


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, x, mode):
        return dict(loss=self.linear(torch.stack(list(x))).sum()) if mode == 'loss' else list(x)


class Scores(BaseMetric):
    """Return given scores, one per evaluation."""

    def __init__(self, scores):
        super().__init__()
        self.scores = iter(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        score = next(self.scores)
        return dict(score=score, other=score)


def runner(work_dir, epochs=3, scores=(), resume=False, model=None, **options):
    loader = dict(batch_size=1, num_workers=0, dataset=[(torch.zeros(1),)], sampler=dict(type='DefaultSampler', shuffle=False))
    validation = dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=[Scores(scores)]) if scores else {}
    return NamingRunner(
        model=model or Tiny(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        param_scheduler=dict(type='ConstantLR', factor=1),
        default_hooks=dict(checkpoint=dict(type='AtomicCheckpointHook', interval=1, **options)),
        # mmengine keeps one message hub per name.
        experiment_name=str(uuid4()),
        resume=resume,
        **validation,
    )
