"""Write programs as ONNX files of standard operators, and compare them with torch."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from mmpelk.utils.errors import InputError, first_line
from mmpelk.version import __version__

from .exporting import Exportable, task
from .folding import relative_difference

OPSET = 20
TOLERANCE, AGREEMENT = 1e-3, 0.999


def metadata(module: Exportable, batch: int, size: Sequence[int], dynamic: bool) -> dict[str, str]:
    """Return the ``metadata_props`` of the ONNX file as JSON strings: everything that a program needs to use the model."""
    meta = module.model.dataset_meta
    head = getattr(module.model, 'decode_head', getattr(module.model, 'head', None))
    independent = 'MultiLabel' in type(head).__name__ or getattr(head, 'out_channels', None) == 1
    values = dict(
        task=task(module.model),
        part=module.part,
        input='(N, 3, H, W) float32, RGB, 0 to 255',
        batch=None if dynamic else batch,
        size=None if dynamic else list(size),
        activation='sigmoid' if independent else 'softmax',
        classes=list(meta['classes']),
        palette=np.asarray(meta['palette']).tolist(),
        mmpelk=__version__,
    )
    return {key: json.dumps(value) for key, value in values.items()}


def to_onnx(program: ExportedProgram, properties: Mapping[str, str]) -> bytes:
    """Convert a program to the content of an ONNX file.

    The file has opset 20, the input 'images', and the output 'logits' or the outputs 'features_0', 'features_1', and so on.

    Args:
        program: The result of :func:`export`.
        properties: The result of :func:`metadata`.
    """
    import onnx

    outputs = len(program.graph_signature.user_outputs)
    names = ['logits'] if json.loads(properties['part']) == 'model' else [f'features_{i}' for i in range(outputs)]
    converted = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=['images'], output_names=names, verbose=False
    ).model_proto
    onnx.helper.set_model_props(converted, dict(properties))
    onnx.checker.check_model(converted)
    buffer = io.BytesIO()
    onnx.save_model(converted, buffer)
    return buffer.getvalue()


@torch.no_grad()
def check_onnx(content: bytes, module: Exportable, batches: Sequence[Tensor]) -> tuple[float, float]:
    """Run an ONNX file in onnxruntime and compare its outputs with the model's.

    Args:
        content: The content of the ONNX file.
        module: The model that was exported, before or after folding.
        batches: Batches of images, each (N, 3, H, W), RGB, from 0 to 255.

    Returns:
        The largest difference relative to the largest output, and the share of predictions (argmax of the logits) that agree, which
        is 1.0 for feature maps.

    Raises:
        InputError: If onnxruntime cannot load the file, the outputs differ by more than 1e-3, or less than 99.9% of the predictions
            agree.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    except Exception as error:  # onnxruntime has many exception types and no common base
        raise InputError(f'onnxruntime cannot load the exported model: {first_line(error)}') from error
    worst, agreeing, total = 0.0, 0, 0
    for images in batches:
        expected = module(images)
        expected = [expected] if isinstance(expected, Tensor) else expected
        outputs = [torch.from_numpy(output) for output in session.run(None, dict(images=images.numpy()))]
        difference = relative_difference(outputs, expected)
        if not difference < TOLERANCE:  # also true for NaN
            raise InputError(f'the ONNX model differs from torch by {difference:.1e}, more than {TOLERANCE}')
        worst = max(worst, difference)
        if module.part == 'model':
            agreeing += (outputs[0].argmax(1) == expected[0].argmax(1)).sum().item()
            total += expected[0][:, 0].numel()
    agreement = agreeing / total if total else 1.0
    if agreement < AGREEMENT:
        raise InputError(f'the ONNX model and torch agree on {agreement:.2%} of the predictions, less than {AGREEMENT:.1%}')
    return worst, agreement
