"""Times a public PyTorch implementation; run by `_peer.py` in a Python that has it.

Reads a request from standard input (JSON: what, its sizes, repeats) and writes
a list of measurements to standard output, or [{"absent": reason}]. All cores.
Imports nothing of ours but the `_peer_hoisdf*.py` beside it.
"""

import contextlib
import ctypes
import json
import platform
import resource
import statistics
import sys
import time
import types
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_DECLARED: list = []  # a library that is collected takes its declarations along


def main() -> None:
    """Answers one request."""
    request = json.load(sys.stdin)
    note = keep_memory()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            answer = PEERS[request["what"]](request)
        answer = [{**each, "note": note} for each in answer]
    except ImportError as error:
        answer = [{"absent": str(error)}]
    json.dump(answer, sys.stdout)


def keep_memory() -> str:
    """Freed memory stays in the process, as in ours; what a report says of it."""
    if platform.libc_ver()[0] != "glibc":
        return "peer's memory as its system keeps it"
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    return "peer keeps memory"


def dinov2(request: dict) -> list[dict]:
    """transformers' Dinov2Model: forward, and the gradient of a sum of squares."""
    import torch

    declare_operators(torch)
    import transformers

    config = transformers.Dinov2Config(**request["config"])
    model = transformers.Dinov2Model(config).eval()
    run = torch.compile(model) if request["compile"] else model
    size, num = request["image_size"], request["batch"]
    image = torch.ones(num, 3, size, size)
    shapes = f"{num} x {size} px, {request['dtype']}, torch {torch.__version__}"
    shapes += ", compiled" if request["compile"] else ", eager"

    def forward() -> None:
        with torch.inference_mode(), _precision(request):
            run(image)

    def gradient() -> None:
        model.zero_grad()
        with _precision(request):
            tokens = run(image).last_hidden_state[:, 1:]
        (tokens.float() ** 2).sum().backward()

    return [
        measure(function, function.__name__, shapes, num, request["repeats"])
        for function in (forward, gradient)
    ]


def mano(request: dict) -> list[dict]:
    """smplx's MANO layer: vertices and joints, and their gradient."""
    import numpy as np
    import smplx
    import torch

    with np.load(request["hand"], allow_pickle=False) as file:
        fields = smplx.utils.Struct(**file)
    layer = smplx.MANO(
        request["hand"],
        is_rhand=True,
        data_struct=fields,
        use_pca=False,
        flat_hand_mean=True,
        dtype=torch.float32,
    )
    num = request["batch"]
    pose = (0.5 * torch.randn(num, 48)).requires_grad_()
    betas = torch.randn(num, 10).requires_grad_()

    def hand() -> object:
        return layer(
            betas=betas,
            global_orient=pose[:, :3],
            hand_pose=pose[:, 3:],
            transl=torch.zeros(num, 3),
        )

    def forward() -> None:
        with torch.inference_mode():
            hand()

    def gradient() -> None:
        out = hand()
        ((out.vertices**2).sum() + (out.joints**2).sum()).backward()

    shapes = f"{num} x (48, 10) -> 778 vertices, torch {torch.__version__}"
    return [
        measure(function, function.__name__, shapes, num, request["repeats"])
        for function in (forward, gradient)
    ]


def hoisdf_inference(request: dict) -> list[dict]:
    """HOISDF from crops to poses."""
    import _peer_hoisdf as peer

    model, image, scene = _hoisdf(request)
    model.eval()

    def whole() -> int:
        with _precision(request):
            return peer.infer(model, image, scene)

    held, flops = whole(), _count_flops(whole)
    shapes = f"{_describe(image, request)}, {held} lattice points in boxes"
    result = measure(whole, "whole", shapes, len(image), request["repeats"])
    return [result | _name_flops(flops, request)]


def hoisdf_training(request: dict) -> list[dict]:
    """A training step of HOISDF with true points, and with its own."""
    import _peer_hoisdf as peer

    model, image, scene = _hoisdf(request)
    training, shapes = peer.Training(model, image, scene), _describe(image, request)
    answers = []
    for key, own_points in (("true points", False), ("own points", True)):

        def step(own_points: bool = own_points) -> None:
            with _precision(request):
                training.step(own_points=own_points)

        flops = _count_flops(step)
        result = measure(step, key, shapes, len(image), request["repeats"])
        answers.append(result | _name_flops(flops, request))
    return answers


def hoisdf_crops(request: dict) -> list[dict]:
    """HOISDF's augmented crops of the same files, on one thread."""
    import _peer_hoisdf_crops as peer
    import numpy as np
    import torch

    torch.set_num_threads(1)
    width, height = request["size"]
    masks = [np.packbits(np.ones(height * width, np.uint8))] * 2

    def crop_all() -> None:
        for row, frame in enumerate(request["frames"]):
            peer.crop(frame, masks, np.random.default_rng(row))

    num = len(request["frames"])
    shapes = f"{num} augmented crops of {peer.SIDE} px"
    return [measure(crop_all, "one core", shapes, num, request["repeats"])]


def hoisdf_scores(request: dict) -> list[dict]:
    """HOISDF's scores of hands, and of objects, with errors of a centimetre."""
    import _peer_hoisdf_scores as peer
    import numpy as np
    import torch

    num, rng = request["batch"], np.random.default_rng(0)
    joints, vertices = (0.05 * rng.normal(size=(num, p, 3)) for p in (21, 778))
    pred_joints, pred_vertices = (
        true + 0.01 * rng.normal(size=true.shape) for true in (joints, vertices)
    )
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(num, *shape, generator=generator)

    model, rotmat, trans = 0.05 * normal(1000, 3), normal(3, 3), 0.1 * normal(3)
    rotmat = torch.linalg.qr(rotmat).Q
    pred_rotmat = torch.linalg.qr(rotmat + 0.1 * normal(3, 3)).Q
    poses = pred_rotmat, trans + 0.01 * normal(3), rotmat, trans

    def hand() -> None:
        peer.score_hands(pred_joints, joints, pred_vertices, vertices)

    def object_() -> None:
        peer.score_objects(*poses, model)

    shapes = f"{num} x 21 joints, 778 vertices, 1000 object points"
    return [
        measure(function, key, shapes, num, request["repeats"])
        for key, function in (("hand", hand), ("object", object_))
    ]


def _hoisdf(request: dict) -> tuple:
    import _peer_hoisdf as peer
    import torch

    torch.manual_seed(0)
    image = torch.rand(request["batch"], 3, peer.SIDE, peer.SIDE)
    return peer.Hoisdf(), image, peer.read_scene(request["scene"])


def _describe(image: object, request: dict) -> str:
    import torch

    sizes = f"{len(image)} x {image.shape[-1]} px, {request['dtype']}"
    return f"{sizes}, eager, torch {torch.__version__}"


def _precision(request: dict) -> contextlib.AbstractContextManager:
    import torch

    rounded = request["dtype"] == "bfloat16"
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=rounded)


def _count_flops(function: Callable[[], object]) -> int:
    """Of matrix products and convolutions, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def _name_flops(flops: int, request: dict) -> dict[str, int]:
    rounded = flops if request["dtype"] == "bfloat16" else 0
    return {"flops": flops, "matrix_flops": flops, "bfloat16_flops": rounded}


def declare_operators(torch: types.ModuleType) -> None:
    """transformers imports torchvision, which may be built for another torch."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for operator in ("nms", "qnms"):
            library.define(operator + signature)
        _DECLARED.append(library)


def measure(
    function: Callable[[], object], key: str, shapes: str, count: int, repeats: int
) -> dict:
    """Fields of a Measurement, and its key."""
    start = time.perf_counter()
    function()
    first_s = time.perf_counter() - start
    seconds, used = [], []
    for _ in range(repeats):
        start, before = time.perf_counter(), time.process_time()
        function()
        seconds.append(time.perf_counter() - start)
        used.append(time.process_time() - before)
    return {
        "key": key,
        "shapes": shapes,
        "count": count,
        "repeats": repeats,
        "first_s": first_s,
        "median_s": statistics.median(seconds),
        "fastest_s": min(seconds),
        "slowest_s": max(seconds),
        "processor_s": statistics.fmean(used),
        "fastest_processor_s": min(used),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_of": "process",
    }


PEERS = {
    "dinov2": dinov2,
    "mano": mano,
    "hoisdf inference": hoisdf_inference,
    "hoisdf training": hoisdf_training,
    "hoisdf crops": hoisdf_crops,
    "hoisdf scores": hoisdf_scores,
}


if __name__ == "__main__":
    main()
