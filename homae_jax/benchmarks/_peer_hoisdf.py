"""HOISDF's work in PyTorch, to be timed; imported by `_peer_program.py` alone.

Written anew from the sizes of its "dexycb" setting (amathislab/HOISDF @666e5b7:
main/config.py, main/model.py, common/nets), for the clock and nothing else: parameters
are random, losses are means of squares, and its MANO layer, targets, metrics and loader
are left out. As in the original, surfaces are searched picture by picture.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

SIDE = 256  # of the crop, px
STAGES = (3, 4, 6, 3)  # ResNet-50
SKIPS = ((1024, 256), (512, 128), (256, 64), (64, 32))  # channels, strides 16 to 2
DECONVOLUTIONS = ((2048, 256), (256, 128), (128, 64), (64, 64))
PYRAMID = (256, 128, 64, 32)  # and 512 at stride 32
MAPS = 3  # heat map, masks of hand and object
WIDTH, FEED_FORWARD, HEADS, DROPOUT = 256, 1024, 4, 0.1
ENCODER_LAYERS = {"hand": 6, "object": 3}
DECODER_LAYERS, QUERIES = 4, 17
ENCODING, OCTAVES = 30, 5
SDF_WIDTH, SDF_DROPOUT = 512, 0.2
POINTS = {"hand": 600, "object": 200}
OTHER = {"hand": "object", "object": "hand"}
GRID, SCALE = 64, 3.1
CLAMP = 0.15
LEARNING_RATE = 1e-4


class Scene(NamedTuple):
    """Where things are in a batch of crops; camera frame, metres, crop pixels."""

    cameras: Mapping[str, Tensor]  # "intrinsics": b 3 3
    origins: Mapping[str, Tensor]  # b 3: of the hand and of the object
    boxes: Mapping[str, Tensor]  # b 4: x0, y0, x1, y1


def read_scene(values: Mapping[str, Sequence]) -> Scene:
    """From lists, as the request holds them, for crops of 256 px."""
    arrays = {key: torch.tensor(value) for key, value in values.items()}
    return Scene(
        {"intrinsics": arrays["intrinsics"]},
        {target: arrays[f"{target}_origin"] for target in POINTS},
        {target: arrays[f"{target}_box"] for target in POINTS},
    )


class Hoisdf(nn.Module):
    """Image -> pyramid -> signed distances at points -> two transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.pyramid = ResNet50(), Pyramid()
        channels = 2 * PYRAMID[0] + sum(PYRAMID)
        width_token = WIDTH - ENCODING - 3
        self.sdf_features = mlp(channels, 512, WIDTH, last=nn.ReLU())
        self.token_features = mlp(channels, 1024, 512, 256, width_token, last=nn.ReLU())
        for target in POINTS:
            self.add_module(f"sdf_{target}", SdfDecoder(WIDTH + ENCODING + 3))
            layers = [Layer(has_memory=False) for _ in range(ENCODER_LAYERS[target])]
            self.add_module(f"encoder_{target}", nn.ModuleList(layers))
            self.add_module(f"norm_{target}", nn.LayerNorm(WIDTH))
        self.decoder = nn.ModuleList(
            Layer(has_memory=True) for _ in range(DECODER_LAYERS)
        )
        self.decoder_norm = nn.LayerNorm(WIDTH)
        self.queries = nn.Parameter(torch.randn(QUERIES, 1, WIDTH))
        square = (WIDTH, WIDTH, WIDTH)
        self.vote, self.vote_class = mlp(*square, WIDTH, 60), mlp(*square, 20)
        self.pose, self.shape = mlp(*square, 6), mlp(*square, 10)
        self.rotation, self.translation = mlp(*square, 3), mlp(*square, 3)
        self.beta = nn.Parameter(torch.tensor(0.1))

    def levels(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The pyramid, coarse to fine, and the maps."""
        return self.pyramid(self.backbone(image))

    def distances(
        self, target: str, levels: list[Tensor], scene: Scene, points: Tensor
    ) -> Tensor:
        """Signed distances at points: b n 1."""
        features = self.sdf_features(look_up(levels, project(target, points, scene)))
        x = torch.cat([features, encode(points), points], -1)
        distance = getattr(self, f"sdf_{target}")(x.flatten(0, -2))
        return distance.view(*points.shape[:-1], 1).clamp(-CLAMP, CLAMP)

    @torch.no_grad()
    def search(
        self, target: str, levels: list[Tensor], scene: Scene
    ) -> tuple[Tensor, Tensor, int]:
        """The lattice's points nearest to the surface, picture by picture.

        And their distances, and how many points in all the boxes held.
        """
        axis = torch.linspace(-1, 1, GRID)
        lattice = torch.cartesian_prod(axis, axis, axis)
        found, values, held = [], [], 0
        for row in range(len(scene.cameras["intrinsics"])):
            one = Scene(*({k: v[row : row + 1] for k, v in x.items()} for x in scene))
            pixels = project(target, lattice[None], one)[0]
            box = one.boxes[target][0]
            points = lattice[((pixels > box[:2]) & (pixels < box[2:])).all(-1)]
            maps = [level[row : row + 1] for level in levels]
            distance = self.distances(target, maps, one, points[None])
            order = distance[0, :, 0].abs().sort().indices
            # The original fails where the box holds too few.
            order = order[torch.arange(POINTS[target]).clamp(max=len(order) - 1)]
            found.append(points[order])
            values.append(distance[0, order])
            held += len(points)
        return torch.stack(found), torch.stack(values), held

    def answer(
        self,
        levels: list[Tensor],
        scene: Scene,
        points: Mapping[str, Tensor],
        distances: Mapping[str, Tensor],
    ) -> list[Tensor]:
        """Votes, pose and shape of the hand; rotation and translation of the object."""
        read = {
            target: self.token_features(look_up(levels, project(target, at, scene)))
            for target, at in points.items()
        }
        seen = {}
        for target, other in OTHER.items():
            own = self._tokens(points[target], distances[target], read[target])
            shift = (scene.origins[other] - scene.origins[target]) * SCALE
            at = points[other] + shift[:, None]
            distance = self.distances(target, levels, scene, at)
            others = self._tokens(at, distance, read[other]).detach()
            tokens = torch.cat([own, others])
            seen[target] = self._encode(target, tokens)[:, : POINTS[target]]
        memory = seen["hand"][-1]
        y, answers = torch.zeros(QUERIES, memory.shape[1], WIDTH), []
        for layer in self.decoder:
            y = layer(y, memory, self.queries)
            answers.append(self.decoder_norm(y))
        answers = torch.stack(answers)
        return [
            self.vote(seen["hand"]),
            self.vote_class(seen["hand"]),
            self.pose(answers[:, :-1]),
            self.shape(answers[:, -1]),
            self.rotation(seen["object"]),
            self.translation(seen["object"]),
        ]

    def _tokens(self, points: Tensor, distance: Tensor, read: Tensor) -> Tensor:
        """Place, encoding, and features weighted by distance: n b 256."""
        beta = self.beta.clamp(min=2e-3)
        weighted = read * torch.sigmoid(distance.detach() / beta) / beta
        parts = [points / SCALE, encode(points), weighted]
        return torch.cat(parts, -1).transpose(0, 1)

    def _encode(self, target: str, x: Tensor) -> Tensor:
        """Normalised outputs of every layer: l n b 256."""
        norm, outputs = getattr(self, f"norm_{target}"), []
        for layer in getattr(self, f"encoder_{target}"):
            x = layer(x)
            outputs.append(norm(x))
        return torch.stack(outputs)


class ResNet50(nn.Module):
    """Features at strides 2 to 32, fine to coarse."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 64, 7, stride=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages, width_in = [], 64
        for index, depth in enumerate(STAGES):
            width, blocks = 64 * 2**index, []
            for block in range(depth):
                stride = 2 if block == 0 and index else 1
                blocks.append(Bottleneck(width_in, width, stride))
                width_in = 4 * width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        found = [self.stem(image)]
        x = self.pool(found[0])
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 round a skip."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(width_in, width, 1),
            convolution(width, width, 3, stride=stride),
            convolution(width, 4 * width, 1, is_last=True),
        )
        is_same = width_in == 4 * width
        project = convolution(width_in, 4 * width, 1, stride=stride, is_last=True)
        self.skip = nn.Identity() if is_same else project

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.skip(x))


class Pyramid(nn.Module):
    """The small decoder: transposed convolutions that skips are joined to."""

    def __init__(self) -> None:
        super().__init__()
        self.top = convolution(2048, 512, 1, bias=True)
        self.skips = nn.ModuleList(convolution(*c, 1, bias=True) for c in SKIPS)
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(*c, 4, 2, 1, bias=False),
                nn.BatchNorm2d(c[1]),
                nn.ReLU(inplace=True),
            )
            for c in DECONVOLUTIONS
        )
        self.joins = nn.ModuleList(
            convolution(skip[1] + up[1], width, 3, bias=True)
            for skip, up, width in zip(SKIPS, DECONVOLUTIONS, PYRAMID, strict=True)
        )
        width = PYRAMID[-1]
        self.maps = nn.ModuleList(
            nn.Sequential(
                convolution(width, width, 1, bias=True), nn.Conv2d(width, 1, 1)
            )
            for _ in range(MAPS)
        )

    def forward(self, found: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        *fine, x = found
        levels = [self.top(x)]
        for skip, up, join in zip(self.skips, self.up, self.joins, strict=True):
            x = join(torch.cat([skip(fine.pop()), up(x)], 1))
            levels.append(x)
        return levels, torch.cat([head(x) for head in self.maps], 1)


class SdfDecoder(nn.Module):
    """Four hidden layers with normalised weights; the input re-enters midway."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        sizes = (
            (width_in, SDF_WIDTH),
            (SDF_WIDTH, SDF_WIDTH - width_in),
            (SDF_WIDTH, SDF_WIDTH),
            (SDF_WIDTH, SDF_WIDTH),
        )
        self.hidden = nn.ModuleList(weight_norm(nn.Linear(*size)) for size in sizes)
        self.out = nn.Linear(SDF_WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for index, layer in enumerate(self.hidden):
            if index == 2:
                y = torch.cat([y, x], -1)
            y = functional.relu(layer(y))
            y = functional.dropout(y, SDF_DROPOUT, self.training)
        return torch.tanh(self.out(y))


class Layer(nn.Module):
    """A post-norm transformer layer; attention called as there, weights returned."""

    def __init__(self, *, has_memory: bool) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(WIDTH, HEADS, dropout=DROPOUT)
        self.cross = (
            nn.MultiheadAttention(WIDTH, HEADS, dropout=DROPOUT) if has_memory else None
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 + has_memory))
        self.widen = nn.Linear(WIDTH, FEED_FORWARD)
        self.narrow = nn.Linear(FEED_FORWARD, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        norms = iter(self.norms)
        query = x if position is None else x + position
        update = self.self_attention(query, query, value=x)[0]
        x = next(norms)(x + self.dropout(update))
        if self.cross is not None:
            query = x if position is None else x + position
            update = self.cross(query, memory, value=memory)[0]
            x = next(norms)(x + self.dropout(update))
        hidden = self.dropout(functional.relu(self.widen(x)))
        return next(norms)(x + self.dropout(self.narrow(hidden)))


def convolution(
    width_in: int,
    width: int,
    kernel: int,
    *,
    stride: int = 1,
    bias: bool = False,
    is_last: bool = False,
) -> nn.Sequential:
    """Convolution, batch norm and, but for the last of a block, ReLU."""
    parts = [
        nn.Conv2d(width_in, width, kernel, stride, kernel // 2, bias=bias),
        nn.BatchNorm2d(width),
    ]
    return nn.Sequential(*parts, *([] if is_last else [nn.ReLU(inplace=True)]))


def mlp(*widths: int, last: nn.Module | None = None) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    parts = []
    for width_in, width in itertools.pairwise(widths):
        parts += [nn.Linear(width_in, width), nn.ReLU()]
    return nn.Sequential(*parts[:-1], *([] if last is None else [last]))


def encode(points: Tensor) -> Tensor:
    """Sines and cosines of five octaves."""
    angles = [points * 2.0**octave for octave in range(OCTAVES)]
    return torch.cat([f(x) for x in angles for f in (torch.sin, torch.cos)], -1)


def project(target: str, points: Tensor, scene: Scene) -> Tensor:
    """Pixels of points that are scaled and relative to the target's origin."""
    camera = points / SCALE + scene.origins[target][:, None]
    pixels = camera @ scene.cameras["intrinsics"].transpose(1, 2)
    return pixels[..., :2] / pixels[..., 2:]


def look_up(levels: list[Tensor], pixels: Tensor) -> Tensor:
    """Features of all levels at pixels: b n 992."""
    half = (SIDE - 1) / 2
    grid = ((pixels - half) / half)[:, None]
    options = {"padding_mode": "border", "align_corners": True}
    found = [functional.grid_sample(level, grid, **options) for level in levels]
    return torch.cat(found, 1)[:, :, 0].transpose(1, 2).contiguous()


def infer(model: Hoisdf, image: Tensor, scene: Scene) -> int:
    """Pictures to poses; how many lattice points that took."""
    with torch.no_grad():
        levels, _ = model.levels(image)
        found = {target: model.search(target, levels, scene) for target in POINTS}
        points = {target: points for target, (points, _, _) in found.items()}
        distances = {target: values for target, (_, values, _) in found.items()}
        model.answer(levels, scene, points, distances)
    return sum(held for *_, held in found.values())


class Training:
    """Steps of AdamW on random points."""

    def __init__(self, model: Hoisdf, image: Tensor, scene: Scene) -> None:
        self._model, self._image, self._scene = model.train(), image, scene
        self._points = {
            target: 0.6 * torch.rand(len(image), num, 3) - 0.3
            for target, num in POINTS.items()
        }
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def step(self, *, own_points: bool) -> None:
        """One; pose points are the given ones, jittered, or the network's own."""
        model, scene = self._model, self._scene
        self._optimizer.zero_grad()
        levels, maps = model.levels(self._image)
        loss = (maps**2).mean()
        points, distances = {}, {}
        for target, given in self._points.items():
            distance = model.distances(target, levels, scene, given)
            loss = loss + distance.abs().mean()
            if own_points:
                at, distance, _ = model.search(target, levels, scene)
            else:
                at = given + 0.03 * torch.rand_like(given)
                distance = model.distances(target, levels, scene, at)
            points[target], distances[target] = at, distance
        for answer in model.answer(levels, scene, points, distances):
            loss = loss + (answer**2).mean()
        loss.backward()
        self._optimizer.step()
