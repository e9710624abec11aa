"""The embedded default: learns in minutes on two CPU cores, from scenes made here.

    bash launch/train.sh --config=configs/synthetic.py
    bash launch/train.sh --config=configs/synthetic.py:long    # some hours

The same architecture as the paper's, every branch present, with a small encoder trained
from scratch, fewer points and fewer layers.
"""

from ml_collections.config_dict import ConfigDict

from configs import common
from homae_jax.errors import UserError


def get_config(length: str = "short") -> ConfigDict:
    """The "short" setting, or the "long" one: more scenes, every view, more steps."""
    if length not in ("short", "long"):
        raise UserError(f'no setting "{length}": use "short" or "long"')
    c = common.get_config()
    c.name = "synthetic"
    c.device = "any"

    c.data.dataset = "synthetic"
    c.data.root = "cache/synthetic"
    c.data.image_size = 112
    c.data.threads = 2
    c.data.object_center = "wrist"  # the depth of the wrist, as on DexYCB
    colours = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}
    c.data.augment.update(rotation_deg=15.0, scale_sigma=0.1, **colours)
    c.synthetic.update(
        num_train=2800,
        num_eval=240,
        view_cone_deg=15.0,
        roll_deg=35.0,
        heavy_share=0.15,
        grips="above",
        grip_spread=0.1,
        objects="ho3d",
    )

    _shrink_model(c.model)
    c.targets.update(num_hand_sdf=128, num_object_sdf=128, object_sdf="grid")
    _lead_with_dense_terms(c.losses.weights)
    c.optimizer.update(
        learning_rate=1e-3, schedule="cosine", warmup_steps=50, clip_norm=1.0
    )

    g = c.train
    g.batch_size = 8  # many small steps: thrice as far on the same images as with 24
    g.steps = 1600
    g.switch_epoch = 0.0  # own points from the start: true ones give the answer away
    g.own_points_probability = 1.0
    g.update(log_every=50, checkpoint_every=500, figures_every=600)
    if length == "long":
        _lengthen(c)
    return c


def _shrink_model(m: ConfigDict) -> None:
    """Every branch, each small, for pictures of half the side."""
    m.dtype = "auto"  # a fifth faster on processors with products of bfloat16
    m.encoder.update(variant="vit_tiny", width_out=192)
    m.mask.update(patch=16, num_patches=9)  # of 49: the paper's share
    m.decoder.update(
        widths=(160, 96, 48, 24), hidden=(192, 128, 64, 32), width_point=95
    )
    m.points.update(num_hand=96, num_object=48)
    m.points.scale = 4.0  # a cube of +- 0.25 m, so that few lattice points do
    m.points.update(grid_size=16, coarse_factor=4, refine_share=0.125)
    m.sdf.update(width=160, dropout=0.0)
    m.heads.update(
        width_mlp=256,
        dropout=0.0,
        hand_encoder_layers=2,
        hand_decoder_layers=2,
        object_encoder_layers=2,
    )


def _lead_with_dense_terms(w: ConfigDict) -> None:
    """They alone teach an encoder from scratch within minutes."""
    w.update(sdf_hand=150.0, sdf_object=200.0)
    w.update(hand_mask=5.0, object_mask=5.0, heatmap=3e-3)
    w.update(vertices=1e3, joints=2e3, mano_pose=10.0, mano_shape=0.1)
    w.update(obj_rotation=0.7, obj_translation=1e4)


def _lengthen(c: ConfigDict) -> None:
    """Every view, every object, every grip."""
    c.name = "synthetic_long"
    c.data.root = "cache/synthetic_long"
    c.synthetic.update(
        num_train=12000,
        num_eval=600,
        view_cone_deg=180.0,
        roll_deg=15.0,
        heavy_share=0.3,
        grips="any",
        grip_spread=1.0,
        objects="all",
    )
    c.train.update(steps=10000, checkpoint_every=1000, figures_every=2000)
