"""Makes torchvision importable where it was built for another torch.

transformers and timm import torchvision; beside a torch without CUDA, a torchvision
built with it fails to load its compiled operators. DINOv2 uses none of them, so it is
enough that they are declared.
"""

import sys

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared = []  # a library that is collected takes its declarations along


def declare_missing() -> None:
    """Before transformers or timm is imported."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declared.append(torch.library.Library("torchvision", "DEF"))
        for operator in ("nms", "qnms"):
            _declared[0].define(operator + SIGNATURE)
