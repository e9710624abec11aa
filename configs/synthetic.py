"""The embedded default: learns in minutes on two CPU cores, from scenes made here.

    bash launch/train.sh --config=configs/synthetic.py
    bash launch/train.sh --config=configs/synthetic.py:long    # some hours

The same architecture as the paper's, every branch present, with a small encoder trained
from scratch, fewer points and fewer layers.
"""

import ml_collections

from configs import common


def get_config(length: str = "short") -> ml_collections.ConfigDict:
    """The "short" setting, or the "long" one: more scenes, every view, more steps."""
    if length not in ("short", "long"):
        raise ValueError(f'no setting "{length}": use "short" or "long"')
    c = common.get_config()
    c.name = "synthetic"
    c.device = "any"

    c.data.dataset = "synthetic"
    c.data.root = "cache/synthetic"
    c.data.image_size = 112
    c.data.threads = 2
    c.data.object_center = "wrist"  # the depth of the wrist, as on DexYCB
    a = c.data.augment
    a.rotation_deg = 15.0
    a.scale_sigma = 0.1
    a.brightness = a.contrast = a.saturation = 0.2
    a.hue = 0.05

    c.synthetic.num_train = 2000
    c.synthetic.num_eval = 240
    c.synthetic.view_cone_deg = 15.0
    c.synthetic.roll_deg = 25.0
    c.synthetic.heavy_share = 0.15
    c.synthetic.grip_spread = 0.3
    c.synthetic.objects = "ho3d"

    m = c.model
    m.dtype = "float32"
    m.encoder.variant = "vit_tiny"
    m.encoder.width_out = 192
    m.mask.patch = 16
    m.mask.num_patches = 9  # of 49: the paper's share
    m.decoder.widths = (160, 96, 48, 24)
    m.decoder.hidden = (192, 128, 64, 32)
    m.decoder.width_point = 95
    m.points.num_hand = 96
    m.points.num_object = 48
    m.points.scale = 4.0  # a cube of +- 0.25 m, so that few lattice points do
    m.points.grid_size = 16
    m.points.sampler = "coarse_to_fine"
    m.points.coarse_factor = 4
    m.points.refine_share = 0.125
    m.sdf.width = 160
    m.sdf.dropout = 0.0
    m.heads.width_mlp = 256
    m.heads.dropout = 0.0
    m.heads.hand_encoder_layers = 2
    m.heads.hand_decoder_layers = 2
    m.heads.object_encoder_layers = 2

    c.targets.num_hand_sdf = 128
    c.targets.num_object_sdf = 128
    c.targets.object_sdf = "grid"

    # The dense terms lead: they alone teach an encoder from scratch within minutes.
    w = c.losses.weights
    w.sdf_hand = 150.0
    w.sdf_object = 200.0
    w.hand_mask = 5.0
    w.object_mask = 5.0
    w.heatmap = 3e-3
    w.vertices = 1e3
    w.joints = 2e3
    w.mano_pose = 10.0
    w.mano_shape = 0.1
    w.obj_rotation = 0.7
    w.obj_translation = 1e4

    o = c.optimizer
    o.learning_rate = 1e-3
    o.schedule = "cosine"
    o.warmup_steps = 50
    o.clip_norm = 1.0

    g = c.train
    g.batch_size = 8  # many small steps: thrice as far on the same images as with 24
    g.steps = 1400
    g.switch_epoch = 0.0  # own points from the start: true ones give the answer away
    g.own_points_probability = 1.0
    g.log_every = 50
    g.checkpoint_every = 500
    g.figures_every = 500
    if length == "long":
        c.name = "synthetic_long"
        c.data.root = "cache/synthetic_long"
        c.synthetic.num_train = 12000
        c.synthetic.num_eval = 600
        c.synthetic.view_cone_deg = 180.0
        c.synthetic.roll_deg = 15.0
        c.synthetic.heavy_share = 0.3
        c.synthetic.grip_spread = 1.0
        c.synthetic.objects = "all"
        g.steps = 10000
        g.checkpoint_every = 1000
        g.figures_every = 2000
    return c
