"""Use trained models in a few lines of Python.

``inference(init_model(config, checkpoint), 'photographs/', out_dir='overlays')`` predicts and draws; see docs/deployment.md.
"""

from .inference import inference, predict, predictions
from .models import init_model, load_model

__all__ = ['inference', 'init_model', 'load_model', 'predict', 'predictions']
