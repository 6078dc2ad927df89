"""ONNX files are what the model computes. A file that differs is refused."""

import json

import pytest
import torch
from small_models import CLASSIFIER, save_model
from torch import nn

from mmpelk.apis import load_model
from mmpelk.deployment import Exportable, check_onnx, export, fold, metadata, to_onnx
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError

onnx = pytest.importorskip('onnx', reason='the extra "export" is not installed')


@pytest.fixture
def load(tmp_path):
    config, checkpoint = save_model(tmp_path, 'model', CLASSIFIER)
    return lambda: load_model(read_config(str(config)), checkpoint, 'cpu')


@pytest.mark.parametrize('part', ['model', 'backbone'])
def test_a_classifier(load, part):
    trained, model = load(), load()
    fold(model)
    module = Exportable(model, part)
    content = to_onnx(export(module, 2, (64, 48)), metadata(module, 2, (64, 48), False))
    difference, agreement = check_onnx(content, Exportable(trained, part), [255 * torch.rand(2, 3, 64, 48)])
    assert difference < 1e-4 and agreement == 1.0
    exported = onnx.load_from_string(content)
    assert {entry.domain: entry.version for entry in exported.opset_import}[''] == 20
    assert [node.name for node in exported.graph.output] == ['logits' if part == 'model' else 'features_0']
    properties = {entry.key: json.loads(entry.value) for entry in exported.metadata_props}
    assert properties['task'] == 'classification' and properties['part'] == part and properties['size'] == [64, 48]
    assert properties['activation'] == 'softmax' and properties['classes'] == list(model.dataset_meta['classes'])


def test_a_file_that_differs_or_is_broken_is_refused(load):
    model = load()
    fold(model)
    module = Exportable(model, 'model')
    content = to_onnx(export(module, 1, (32, 32)), metadata(module, 1, (32, 32), False))
    nn.init.normal_(model.head.fc.weight)
    with pytest.raises(InputError, match='differs from torch by'):
        check_onnx(content, module, [255 * torch.rand(1, 3, 32, 32)])
    with pytest.raises(InputError, match='onnxruntime cannot load'):
        check_onnx(content[:100], module, [])


def test_predictions_that_disagree_are_refused(load):
    """Two classes whose logits differ by less than the tolerance are exchanged."""
    model = load()
    fold(model)
    head = model.head.fc
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    head.bias.data[0] = 1.0
    head.bias.data[1] = 1.0 - 1e-4
    module = Exportable(model, 'model')
    content = to_onnx(export(module, 1, (32, 32)), metadata(module, 1, (32, 32), False))
    head.bias.data[:2] = head.bias.data[:2].flip(0).clone()
    with pytest.raises(InputError, match='agree on 0.00% of the predictions'):
        check_onnx(content, module, [255 * torch.rand(1, 3, 32, 32)])
