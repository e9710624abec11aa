"""What values the keys of a configuration take; a wrong one would show late, or never.

Their types are config_flags.py's matter, what they mean configs/common.py's. Rules that
a part of the network knows by itself stay with it.
"""

import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from homae_jax.data import crops, dexycb
from homae_jax.errors import UserError
from homae_jax.hand.mano import FINGERTIPS

GIVEN_OR_FOUND = ("gt", "predicted")
WORDS = {
    "data.augment.rotation_mode": crops.ROTATION_MODES,
    "data.crop": crops.CROPS,
    "data.dataset": ("ho3d", "dexycb", "synthetic"),
    "data.filter": tuple(dexycb.FILTERS),
    "data.left_hands": ("mirror", "drop"),  # networks and scores know right hands
    "data.object_center": crops.OBJECT_CENTERS,
    "evaluate.fingertips": tuple(FINGERTIPS),
    "losses.rotation": ("matrix", "axis_angle"),
    "model.dtype": ("float32", "bfloat16", "auto"),
    "model.heads.object_rotation": ("rot6d", "axis_angle"),
    "protocol.boxes": GIVEN_OR_FOUND,
    "protocol.object_center": GIVEN_OR_FOUND,
    "protocol.root": GIVEN_OR_FOUND,
    "synthetic.grips": ("any", "above"),
    "synthetic.objects": ("all", "ho3d"),
    "train.on_failed_save": ("go_on", "stop"),
}
SIGNED = ("model.fusion.sdf_sign",)  # every other number is 0 at least
AT_LEAST_ONE = (
    "data.image_size",
    "evaluate.batch_size",
    "model.decoder.width_point",
    "model.encoder.width_out",
    "model.heads.hand_decoder_layers",
    "model.heads.hand_encoder_layers",
    "model.heads.num_heads",
    "model.heads.object_encoder_layers",
    "model.heads.width_mlp",
    "model.mask.patch",
    "model.points.coarse_factor",
    "model.points.num_hand",
    "model.points.num_object",
    "model.points.octaves",
    "model.sdf.depth",
    "model.sdf.width",
    "targets.num_hand_sdf",
    "targets.num_object_sdf",
    "train.accumulate",
    "train.batch_size",
    "train.checkpoint_every",
    "train.log_every",
)
ABOVE_ZERO = (
    "data.crop_scale",
    "data.hand_box_scale",
    "data.object_box_scale",
    "data.object_center_depth",
    "model.fusion.beta_init",
    "model.points.scale",
    "optimizer.decay_epochs",
    "targets.heatmap_sigma_px",
    "targets.near_sigma",
    "targets.sdf_clamp",
)
SHARES = (  # from 0 to 1
    "data.augment.rotation_probability",
    "model.mask.object_share",
    "model.points.refine_share",
    "synthetic.grip_spread",
    "synthetic.heavy_share",
    "targets.near_share",
    "train.own_points_probability",
)
HALF_TURNS = ("synthetic.roll_deg", "synthetic.view_cone_deg")
BELOW_ONE = (
    "data.augment.scale_sigma",
    "model.encoder.drop_path",
    "model.heads.dropout",
    "model.sdf.dropout",
    "optimizer.b1",
    "optimizer.b2",
)
NUM_JITTERS = 3  # of targets.point_jitter: three parts of an epoch


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError at the first key whose value nothing could be done with."""
    for key, value in _numbers(config.to_dict()):
        _refuse_unless(math.isfinite(value), key, value, "a finite number")
        if key not in SIGNED:
            _refuse_unless(value >= 0, key, value, "0 or more")
    for key, words in WORDS.items():
        value = operator.attrgetter(key)(config)
        _refuse_unless(value in words, key, value, f"one of {', '.join(words)}")
    for keys, is_fit, wanted in (
        (AT_LEAST_ONE, lambda x: x >= 1, "1 or more"),
        (ABOVE_ZERO, lambda x: x > 0, "more than 0"),
        (SHARES, lambda x: x <= 1, "0 to 1"),
        (HALF_TURNS, lambda x: x <= 180, "0 to 180"),
        (BELOW_ONE, lambda x: x < 1, "0 or more, less than 1"),
    ):
        for key in keys:
            value = operator.attrgetter(key)(config)
            _refuse_unless(is_fit(value), key, value, wanted)
    _check_together(config)


def _check_together(config: ml_collections.ConfigDict) -> None:
    """Rules between keys."""
    model, points = config.model, config.model.points
    jitter = config.targets.point_jitter
    _refuse_unless(
        len(jitter) == NUM_JITTERS, "targets.point_jitter", jitter, "three numbers"
    )
    _refuse_unless(
        points.grid_size > 1, "model.points.grid_size", points.grid_size, "2 or more"
    )
    for part in ("hand", "object"):
        num = points[f"num_{part}"]
        most = f"at most {points.grid_size**3}, all points of model.points.grid_size"
        _refuse_unless(
            num <= points.grid_size**3, f"model.points.num_{part}", num, most
        )
    width = model.decoder.width_point + 6 * points.octaves + 3
    heads = model.heads.num_heads
    _refuse_unless(
        width % heads == 0,
        "model.heads.num_heads",
        heads,
        f"a divisor of a token's {width} channels (model.decoder.width_point + "
        "6 x model.points.octaves + 3)",
    )


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, those in tuples too, with its key."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{key}.")
            continue
        for each in value if isinstance(value, tuple | list) else [value]:
            if isinstance(each, int | float) and not isinstance(each, bool):
                yield key, each


def _refuse_unless(is_fit: bool, key: str, value: Any, wanted: str) -> None:
    if not is_fit:
        raise UserError(f"{key}={value!r:.60}: expected {wanted}")
