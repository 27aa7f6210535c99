"""A network on a CPU by ONNX Runtime, where it is installed and gives what PyTorch gives."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["faster"]

_TOLERANCE = 1e-3  # largest difference, as a part of the largest number that PyTorch gives


@torch.no_grad()
def faster(network: nn.Module, images: Tensor) -> tuple[Callable[[Tensor], Tensor], str]:
    """A quick equivalent of a network, and what runs it: "onnxruntime", or "torch" and why.

    Args:
        network: from images to features, on the host, for use, not training.
        images: `[n, ...]`, a first batch, on which both are compared.
    """
    try:
        import onnxruntime
    except ImportError:
        return network, "torch, as onnxruntime is not installed"
    try:
        run = _session(onnxruntime, network, images)
        expected = network(images)
        found = run(images)
    except Exception as error:  # the exporter and the runtime have no common base, and neither is needed
        return network, f"torch, as onnxruntime failed: {' '.join(str(error).split())[:120] or type(error).__name__}"
    apart = float((found - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny))
    if not apart <= _TOLERANCE:
        return network, f"torch, as the features of onnxruntime differ by {apart:.1e}"
    return run, "onnxruntime"


def _session(onnxruntime: Any, network: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    model: Any = io.BytesIO()  # annotated as a path only, though a stream is as good
    with warnings.catch_warnings():  # of tracing: shapes other than the number of images are the same in every batch
        warnings.simplefilter("ignore")
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["features"]}
        axes = {"images": {0: "n"}, "features": {0: "n"}}
        torch.onnx.export(network, (images[:2],), model, dynamo=False, dynamic_axes=axes, **names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.getvalue(), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (features,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(features)

    return run
