"""The network of HOMAE, wired (paper Fig. 2); the parts have a file each.

image -> masking -> ViT -> MLP decoder pyramid -> features at points -> SDF, PointNet,
fusion -> transformer heads -> MANO and object pose. Frames and shapes: schema.py.
Matrix products run in `dtype`; geometry, rotations and MANO stay float32.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from homae_jax.errors import UserError
from homae_jax.geometry import rotations
from homae_jax.hand import mano as mano_lib
from homae_jax.models import masking
from homae_jax.models import points as points_lib
from homae_jax.models.auxiliary import FLOAT32_LAYERS, AuxiliaryHead
from homae_jax.models.decoder import Decoder, DecoderOutput
from homae_jax.models.dinov2 import IMAGE_MEAN, IMAGE_STD, make_encoder
from homae_jax.models.fusion import Fusion
from homae_jax.models.heads import HandHead, ObjectHead
from homae_jax.models.pointnet import PointNet
from homae_jax.models.products import dense, round_factors
from homae_jax.models.sampling import PointFeatures
from homae_jax.models.sdf import SdfHead
from homae_jax.schema import Batch, Located, Outputs, Targets

Keywords = Mapping[str, Any]


def normalise_image(image: UInt8[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """8-bit RGB -> zero mean, unit variance under ImageNet statistics."""
    mean, std = jnp.array(IMAGE_MEAN), jnp.array(IMAGE_STD)
    lead = (1,) * (image.ndim - 1)
    return (image / 255.0 - mean.reshape(*lead, 3)) / std.reshape(*lead, 3)


def round_params(params: Any, dtype: str) -> Any:
    """HOMAE's parameters for inference in `dtype`: see `products.round_factors`."""
    return round_factors(params, dtype, float32_layers=FLOAT32_LAYERS)


class Homae(nn.Module):
    """Hand and object pose from an image crop, robust to occlusion.

    Sub-configurations are keyword arguments of the part they name, so that a mistyped
    key is an error where the part is built (configs/common.py lists them all).
    """

    image_size: int
    fingertips: str
    encoder: Keywords
    mask: Keywords
    decoder: Keywords
    points: Keywords
    sdf: Keywords
    pointnet: Keywords
    fusion: Keywords
    heads: Keywords
    auxiliary: bool = False
    dtype: str = "float32"

    def setup(self) -> None:
        dtype = jnp.dtype(self.dtype)
        encoder = dict(self.encoder)
        encoder.pop("weights", None)
        encoder.pop("freeze", None)
        width_out = encoder.pop("width_out")
        decoder = dict(self.decoder)
        width_point = decoder.pop("width_point")
        multiscale = decoder.pop("multiscale")
        self.vit = make_encoder(image_size=self.image_size, dtype=dtype, **encoder)
        self.vit_out = dense(width_out, dtype)
        if self.auxiliary:
            self.locator = AuxiliaryHead(image_size=self.image_size, dtype=dtype)
        self.pyramid = Decoder(image_size=self.image_size, dtype=dtype, **decoder)
        self.point_features = PointFeatures(
            width=width_point,
            image_size=self.image_size,
            channels=self.decoder["widths"],
            multiscale=multiscale,
            dtype=dtype,
        )
        per_sample = {"variable_axes": {"params": None}, "in_axes": (0, None)}
        rngs = {"params": False, "dropout": True}
        sdf_head = nn.vmap(SdfHead, split_rngs=rngs, **per_sample)
        self.sdf_hand = sdf_head(dtype=dtype, **self.sdf)
        self.sdf_object = sdf_head(dtype=dtype, **self.sdf)
        if self.fusion["explicit"]:
            pointnet = nn.vmap(
                PointNet,
                variable_axes={"params": None},
                split_rngs={"params": False},
            )
            sizes = {"width_out": width_point, "dtype": dtype, **self.pointnet}
            self.pointnet_hand = pointnet(**sizes)
            self.pointnet_object = pointnet(**sizes)
        self.fusion_hand = Fusion(dtype=dtype, **self.fusion)
        self.fusion_object = Fusion(dtype=dtype, **self.fusion)
        heads = {k: self.heads[k] for k in ("num_heads", "width_mlp", "dropout")}
        self.head_hand = HandHead(
            encoder_layers=self.heads["hand_encoder_layers"],
            decoder_layers=self.heads["hand_decoder_layers"],
            dtype=dtype,
            **heads,
        )
        self.head_object = ObjectHead(
            encoder_layers=self.heads["object_encoder_layers"],
            rotation=self.heads["object_rotation"],
            dtype=dtype,
            **heads,
        )

    def __call__(
        self,
        batch: Batch,
        mano: mano_lib.ManoModel,
        *,
        targets: Targets | None = None,
        own_points: bool | Bool[Array, ""] = True,
        train: bool = False,
        mask_image: bool = False,
        reconstruct: bool = False,
    ) -> Outputs:
        """Runs the network.

        Args:
          targets: gives the SDF supervision points, and the pose points where
            `own_points` is off; without it both come from the network.
          own_points: pose points are sampled from the predicted SDF (inference, and
            late training) instead of `targets`; may be traced.
          mask_image: apply target-focused masking (needs the "mask" rng).
          reconstruct: also decode the image.
        """
        clean = normalise_image(batch.image)
        seen, patch_mask = self._mask(clean, batch) if mask_image else (clean, None)
        features = self._encode(seen, train)
        decoded = self.pyramid(features, with_image=reconstruct)
        field = _Field(self, decoded.levels, batch, train)

        sdf_hand = sdf_object = None
        if targets is not None:
            _, sdf_hand = field.hand(targets.hand_sdf_points_norm)
            _, sdf_object = field.object(targets.object_sdf_points_norm)
        hand = self._pose_points(field, "hand", targets, own_points)
        obj = self._pose_points(field, "object", targets, own_points)
        hand_tokens, hand_sdf = self._tokens(field, "hand", hand, obj)
        object_tokens, object_sdf = self._tokens(field, "object", obj, hand)
        hand_out = self.head_hand(
            hand_tokens, num_own=self.points["num_hand"], train=train
        )
        object_out = self.head_object(
            object_tokens, num_own=self.points["num_object"], train=train
        )

        hand_rotmat = rotations.rot6d_to_rotmat(hand_out.rot6d)
        posed = mano_lib.mano_forward(
            mano, hand_rotmat, hand_out.betas, fingertips=self.fingertips
        )
        wrist = posed.joints[..., :1, :]
        joints_root, vertices_root = posed.joints - wrist, posed.vertices - wrist
        object_rotmat = aggregate_rotation(object_out.rotation[-1])
        object_trans = jnp.mean(object_out.trans_root[-1], axis=1)
        return Outputs(
            clean_image=clean,
            image=decoded.image,
            masked_image=seen if mask_image else None,
            patch_mask=patch_mask,
            heatmap=decoded.heatmap,
            hand_mask_logits=decoded.hand_mask_logits,
            object_mask_logits=decoded.object_mask_logits,
            hand_sdf_norm=sdf_hand,
            object_sdf_norm=sdf_object,
            hand_points_norm=hand.points_norm,
            object_points_norm=obj.points_norm,
            hand_points_sdf_norm=hand_sdf,
            object_points_sdf_norm=object_sdf,
            hand_points_in_box=hand.in_box,
            object_points_in_box=obj.in_box,
            hand_rotmat=hand_rotmat,
            hand_betas=hand_out.betas,
            hand_vertices_root=vertices_root,
            hand_joints_root=joints_root,
            vote_offsets_root=hand_out.vote_offsets_root,
            vote_logits=hand_out.vote_logits,
            object_rotation=object_out.rotation,
            object_trans_root=object_out.trans_root,
            object_rotmat=object_rotmat,
            object_trans=object_trans + batch.object_center,
            joints=joints_root[-1] + batch.wrist[:, None],
            vertices=vertices_root[-1] + batch.wrist[:, None],
            **self._auxiliary(features, batch, train),
        )

    def locate(
        self, image: UInt8[Array, "b h w 3"], intrinsics: Float[Array, "b 3 3"]
    ) -> Located:
        """Boxes, wrist and object of square views (needs `auxiliary`)."""
        return self.locator(self._encode(normalise_image(image), False), intrinsics)

    def decode_image(self, image: UInt8[Array, "b h w 3"]) -> DecoderOutput:
        """Encoder and decoder alone: features, maps, the image (HOMAE sec. III-A)."""
        features = self._encode(normalise_image(image), train=False)
        return self.pyramid(features, with_image=True)

    def _encode(self, image: Array, train: bool) -> Array:
        """Normalised image -> F (HOMAE eq. 8), a grid of features."""
        features = self.vit_out(self.vit(image, train=train).patch_tokens)
        grid = round(features.shape[1] ** 0.5)
        return features.reshape(features.shape[0], grid, grid, -1)

    def _auxiliary(
        self, features: Array, batch: Batch, train: bool
    ) -> dict[str, Located]:
        """What the auxiliary head finds in the crop and in the scene, if asked to."""
        if not self.auxiliary:
            return {}
        found = {"located": self.locator(features, batch.intrinsics)}
        if batch.scene is not None:
            scene = self._encode(normalise_image(batch.scene.image), train)
            found["scene_located"] = self.locator(scene, batch.scene.intrinsics)
        return found

    def _mask(self, image: Array, batch: Batch) -> tuple[Array, Array | None]:
        """Target-focused masking of every image (HOMAE eq. 1-7), if it is on."""
        options = dict(self.mask)
        if not options.pop("enabled"):
            return image, None
        patch, fill = options["patch"], options.pop("fill")
        grid, target = self.image_size // patch, options.pop("target")

        def draw(key: Array, hand_box: Array, object_box: Array) -> Array:
            box = masking.target_box(target, hand_box, object_box)
            return masking.target_focused_mask(key, box, grid=grid, **options)

        mask_key, fill_key = jax.random.split(self.make_rng("mask"))
        keys = jax.random.split(mask_key, image.shape[0])
        masks = jax.vmap(draw)(keys, batch.hand_box_px, batch.object_box_px)
        keys = jax.random.split(fill_key, image.shape[0])
        masked = jax.vmap(
            lambda key, x, m: masking.apply_mask(key, x, m, patch=patch, fill=fill)
        )(keys, image, masks)
        return masked, masks

    def _pose_points(
        self,
        field: "_Field",
        target: str,
        targets: Targets | None,
        own_points: bool | Array,
    ) -> points_lib.SurfacePoints:
        """The points the pose is read from: sampled, or the jittered true surface."""

        def given() -> points_lib.SurfacePoints:
            points = getattr(targets, f"{target}_points_norm")
            return points_lib.SurfacePoints(points, jnp.ones(points.shape[:2], bool))

        sample = field.sampler(target, **self.points)
        if own_points is True and not field.train:
            return sample()

        def sampled() -> points_lib.SurfacePoints:
            # Distances are asked for anew: with dropout, and for their gradient.
            return sample()._replace(sdf_norm=None)

        if isinstance(own_points, bool):
            return sampled() if own_points else given()
        return jax.lax.cond(own_points, sampled, given)

    def _tokens(
        self,
        field: "_Field",
        target: str,
        own: points_lib.SurfacePoints,
        other: points_lib.SurfacePoints,
    ) -> tuple[Array, Array]:
        """Point tokens (p, gamma(p), F_agg) and the SDF at the target's own points."""
        points = own.points_norm
        if self.heads["cross_points"]:
            other_points = field.to_frame_of(target, other.points_norm)
            points = jnp.concatenate([points, other_points], axis=1)
        if own.sdf_norm is None or self.heads["cross_points"]:
            f_img, sdf = getattr(field, target)(points)
        else:
            f_img, sdf = field.features(target, points), own.sdf_norm
        f_3d = None
        if self.fusion["explicit"]:
            f_3d = getattr(self, f"pointnet_{target}")(points)
        f_agg = getattr(self, f"fusion_{target}")(f_img, f_3d, sdf)
        encoding = points_lib.encode_points(points, octaves=self.points["octaves"])
        root = points / self.points["scale"]
        dtype = f_agg.dtype
        tokens = [root.astype(dtype), encoding.astype(dtype), f_agg]
        return jnp.concatenate(tokens, axis=-1), sdf[:, : own.points_norm.shape[1]]


class _Field:
    """Features and signed distance at points of one batch's decoded images."""

    def __init__(self, model: Homae, levels, batch: Batch, train: bool):
        self._model, self._batch, self.train = model, batch, train
        self._maps = model.point_features.prepare(levels)
        self._scale = model.points["scale"]
        self._octaves = model.points["octaves"]
        self._origin = {"hand": batch.wrist, "object": batch.object_center}
        self._box = {"hand": batch.hand_box_px, "object": batch.object_box_px}

    def hand(self, points_norm: Array) -> tuple[Array, Array]:
        return self._evaluate("hand", points_norm)

    def object(self, points_norm: Array) -> tuple[Array, Array]:
        return self._evaluate("object", points_norm)

    def features(self, target: str, points_norm: Array) -> Array:
        """F_img alone."""
        pixels = self._to_px(target, points_norm)
        return self._model.point_features.read(self._maps, pixels)

    def to_frame_of(self, target: str, points_norm: Array) -> Array:
        """Re-expresses the other target's points in this one's frame."""
        other = "object" if target == "hand" else "hand"
        shift = (self._origin[other] - self._origin[target]) * self._scale
        return points_norm + shift[:, None]

    def sampler(
        self,
        target: str,
        *,
        num_hand: int,
        num_object: int,
        scale: float,
        octaves: int,
        grid_size: int,
        sampler: str,
        coarse_factor: int,
        refine_share: float,
    ):
        """A function of nothing that samples the predicted surface; points stay put."""
        del scale, octaves
        options = {"num": num_hand if target == "hand" else num_object}
        if sampler == "dense":
            sample = points_lib.sample_dense
        elif sampler == "coarse_to_fine":
            sample = points_lib.sample_coarse_to_fine
            options |= {"factor": coarse_factor, "share": refine_share}
        else:
            raise UserError(
                f'model.points.sampler="{sampler}": use "dense" or "coarse_to_fine"'
            )
        # Unbound: the sampler may run inside a branch or a loop of JAX.
        head, head_variables = getattr(self._model, f"sdf_{target}").unbind()
        features, feature_variables = self._model.point_features.unbind()
        # What comes of the search takes no gradient: it is not traced through either.
        maps, head_variables, feature_variables = jax.lax.stop_gradient(
            (self._maps, head_variables, feature_variables)
        )
        box_px = self._box[target]

        def sdf(points: Array) -> Array:
            pixels = self._to_px(target, points)
            f_img = features.apply(feature_variables, maps, pixels, method="read")
            return head.apply(head_variables, self._head_input(f_img, points), False)

        def outside_px(points: Array) -> Array:
            pixels = self._to_px(target, points)
            return points_lib.distance_outside_box(pixels, box_px)

        def run() -> points_lib.SurfacePoints:
            return sample(
                sdf,
                outside_px,
                batch_size=box_px.shape[0],
                grid_size=grid_size,
                **options,
            )

        return run

    def _to_px(self, target: str, points_norm: Array) -> Array:
        return points_lib.project_points(
            points_norm,
            self._origin[target],
            self._batch.intrinsics,
            scale=self._scale,
        )

    def _head_input(self, f_img: Array, points_norm: Array) -> Array:
        encoding = points_lib.encode_points(points_norm, octaves=self._octaves)
        parts = (encoding, f_img, points_norm)
        return jnp.concatenate([part.astype(f_img.dtype) for part in parts], axis=-1)

    def _evaluate(self, target: str, points_norm: Array) -> tuple[Array, Array]:
        f_img = self.features(target, points_norm)
        head = getattr(self._model, f"sdf_{target}")
        return f_img, head(self._head_input(f_img, points_norm), self.train)


def aggregate_rotation(votes: Float[Array, "b p r"]) -> Float[Array, "b 3 3"]:
    """One rotation from per-point votes.

    rot6d: the rotation nearest to the mean matrix (SVD). axis_angle: the mean vector,
    as in HOISDF, ill-defined near pi.
    """
    if votes.shape[-1] == 6:
        mean = jnp.mean(rotations.rot6d_to_rotmat(votes), axis=1)
        return rotations.project_to_so3(mean)
    return rotations.aa_to_rotmat(jnp.mean(votes, axis=1))
