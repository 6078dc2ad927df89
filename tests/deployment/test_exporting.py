"""Exported programs compute the same as the models, and models that are not a fixed graph are refused."""

import pytest
import torch
from small_models import CLASSIFIER, DETECTOR, SEGMENTOR, save_model

from mmpelk.apis import load_model
from mmpelk.deployment import Exportable, export, fold
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError
from mmpelk.utils.torch_compat import TORCH

needs_exporter = pytest.mark.skipif(TORCH < (2, 6), reason='exporting needs torch 2.6')


def load(folder, text):
    config, checkpoint = save_model(folder, 'model', text)
    return load_model(read_config(str(config)), checkpoint, 'cpu')


@needs_exporter
@pytest.mark.parametrize('text, dynamic', [(CLASSIFIER, False), (SEGMENTOR, True)], ids=['classifier', 'dynamic segmentor'])
def test_a_program_computes_the_logits_of_the_training_model(text, dynamic, tmp_path):
    trained, model = load(tmp_path, text), load(tmp_path, text)
    fold(model)
    program = export(Exportable(model, 'model'), 2, (96, 64), dynamic)
    assert {node.target.namespace for node in program.graph.nodes if hasattr(node.target, 'namespace')} == {'aten'}
    pixels = 255 * torch.rand(*((3, 3, 70, 101) if dynamic else (2, 3, 96, 64)))
    prepared = trained.data_preprocessor(dict(inputs=list(pixels.flip(1)), data_samples=None))['inputs']  # it takes BGR
    expected = trained(prepared, mode='tensor').detach()
    if expected.ndim == 4:
        expected = torch.nn.functional.interpolate(expected, size=pixels.shape[-2:], mode='bilinear')
    torch.testing.assert_close(program.module()(pixels), expected, rtol=1e-4, atol=1e-4)


@needs_exporter
@pytest.mark.parametrize('part', ['neck', 'backbone'])
def test_feature_maps_of_a_detector(part, tmp_path):
    pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
    model = load(tmp_path, DETECTOR)
    with pytest.raises(InputError, match="export part 'neck' or 'backbone', or use MMDeploy"):
        Exportable(model, 'model')
    module, pixels = Exportable(model, part), 255 * torch.rand(1, 3, 64, 96)
    expected = module(pixels)
    fold(model)
    outputs = export(module, 1, (64, 96)).module()(pixels)
    assert len(outputs) == len(expected) >= 4
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(TORCH < (2, 6), reason='older versions of torch are refused first')
def test_kernels_on_a_grid_are_refused(tmp_path):
    with pytest.raises(InputError, match='fold the backbone before exporting it'):
        export(Exportable(load(tmp_path, CLASSIFIER), 'model'), 1, (32, 32))


def test_what_a_model_lacks_is_named(tmp_path):
    model = load(tmp_path, CLASSIFIER)
    with pytest.raises(InputError, match="part must be one of .*, got 'head'"):
        Exportable(model, 'head')
    model.neck = None
    with pytest.raises(InputError, match="has no neck; export part 'backbone'"):
        Exportable(model, 'neck')


def test_only_normalization_is_exported(tmp_path):
    model = load(tmp_path, CLASSIFIER)
    model.data_preprocessor.std = model.data_preprocessor.std * 2
    Exportable(model, 'model')
    model.data_preprocessor.forward = lambda data, training: dict(inputs=torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match='does more than normalize'):
        Exportable(model, 'model')
