"""Every key, once, with the paper's setting (HOMAE sec. IV-B).

Marks: [P] stated by the paper, [H] from HOISDF, the baseline it builds on, [D] decided
here. A data set's config starts from `get_config()` and overrides; any key can be
overridden on the command line, for example `--config.optimizer.learning_rate=5e-5`.
"""

from ml_collections.config_dict import ConfigDict, placeholder


def get_config() -> ConfigDict:
    c = ConfigDict()

    c.name = "homae"  # names the run in logs and reports
    c.seed = 0  # the run's only seed: parameters, order, augmentation, dropout
    c.device = "gpu"  # "gpu": refuse to train without one (see --allow_cpu) | "any"
    c.data = _data()
    c.synthetic = _synthetic()
    c.model = _model()
    c.targets = _targets()
    c.losses = _losses()
    c.optimizer = _optimizer()
    c.train = _train()
    c.parallel = ConfigDict()
    c.parallel.engine = "mesh"  # jit over a mesh | "pmap": the same step, pmapped
    c.evaluate = _evaluate()
    c.protocol = ConfigDict()  # what is given at test time, kept in results
    c.protocol.root = "gt"
    c.protocol.boxes = "gt"
    c.protocol.object_center = "gt"
    c.sweep = placeholder(str)  # set by launch/sweep.py: label of the setting
    return c


def _data() -> ConfigDict:
    """Where frames come from and how they are cropped."""
    d = ConfigDict()
    d.dataset = "ho3d"  # "ho3d" | "dexycb" | "synthetic" (made at first use)
    d.root = ""  # folder of the data set, e.g. /data/HO3D_v2
    d.models = ""  # YCB models (<name>/textured_simple.obj); "" = <root>/models
    # MANO right hand: MANO_RIGHT.pkl or .npz; "" = <root>/mano/MANO_RIGHT.pkl
    d.mano = ""
    d.train_split = "train"
    d.eval_split = "evaluation"
    # DexYCB: "annotated" | "hoisdf_full" | "hoisdf_small" | "artiboost" | "right"
    d.filter = "annotated"
    d.left_hands = "mirror"  # DexYCB: "mirror" [H] | "drop"
    d.max_train_frames = 0  # 0 = all; n = the first n of a seeded shuffle
    d.max_eval_frames = 0  # 0 = all; n = n frames evenly spaced over the split
    d.image_size = 224  # side of the square crop, px [P]
    d.crop = "hand_object"  # square round "hand_object" | "object" boxes [H]
    d.crop_scale = 1.5  # boxes are enlarged by this before their union [H]
    d.hand_box_scale = 1.2  # the box that sampled hand points must project into [H]
    d.object_box_scale = 1.0  # likewise for the object [H]
    # Depth of object_center: "const" | "wrist" [H: HO-3D, DexYCB].
    d.object_center = "const"
    d.object_center_depth = 0.5244322  # metres, for "const" [H]
    d.on_bad_sample = "raise"  # in training: "raise" | "skip": another frame instead
    # Training frames kept decoded: "" none | "ram" | "disk", kept between runs.
    d.cache = ""
    d.threads = 8  # loader threads
    d.workers = 0  # loader processes on top; 0 = threads only

    a = d.augment = ConfigDict()  # training only [H]
    a.enabled = True
    a.center_jitter = 0.1  # of the crop's side, uniform, per axis
    a.scale_sigma = 0.2  # side x N(1, sigma), clipped to 1 +- sigma
    a.rotation_deg = 180.0  # in-plane: limit (uniform) or 2 sigma (normal)
    a.rotation_mode = "uniform"  # "uniform" | "normal"
    a.rotation_probability = 1.0
    a.brightness = 0.5
    a.contrast = 0.5
    a.saturation = 0.5
    a.hue = 0.15
    a.blur_px = 0.5  # largest Gaussian blur radius
    a.colours_on = "loader"  # "loader" | "device": the last five inside the step
    return d


def _synthetic() -> ConfigDict:
    """The world made at first use when data.dataset == "synthetic"."""
    s = ConfigDict()
    s.num_train = 0
    s.num_eval = 0
    s.seed = 0
    s.view_cone_deg = 180.0  # views within this angle of the mean view; 180 = sphere
    s.roll_deg = 15.0  # rotation in the picture, within +- this
    s.heavy_share = 0.3  # of frames in which something hides much of hand or object
    s.grips = "any"  # "any" way in the hand | "above": hung from it, upright
    s.grip_spread = 1.0  # objects are held: 0, at their middle | 1, anywhere
    s.objects = "all"  # in training: "all" 20 | "ho3d": the nine of HO-3D
    return s


def _model() -> ConfigDict:
    """The network."""
    m = ConfigDict()
    # Of matrix products; parameters and geometry stay float32. On recent NVIDIA GPUs
    # products of "float32" are TF32 unless JAX_DEFAULT_MATMUL_PRECISION=float32 is set.
    m.dtype = "bfloat16"  # "bfloat16" | "float32" | "auto": as the device is faster
    m.auxiliary = False  # also find boxes, wrist and object: own pictures [D]
    m.encoder = _encoder()
    m.mask = _mask()  # target-focused masking [P eq. 1-7]
    m.decoder = _decoder()  # MLP pyramid [P eq. 9-11]
    m.points = _points()
    m.sdf = _sdf()
    m.pointnet = _pointnet()
    m.fusion = _fusion()  # [P eq. 14]
    m.heads = _heads()  # [P eq. 15-16, H]
    return m


def _encoder() -> ConfigDict:
    """The image encoder."""
    e = ConfigDict()
    e.variant = "vitb14"  # vit{s,b,l,g}14[_reg] | vit_tiny (from scratch) [D]
    e.weights = ""  # DINOv2 checkpoint; "" = random initialisation (logged)
    e.freeze = False
    e.width_out = 256  # channels of F [P eq. 8]
    e.attention = "xla"  # "xla" | "cudnn" (bfloat16; NVIDIA, capability 8.0 or more)
    e.remat = False  # recompute blocks in the backward pass to save memory
    e.drop_path = 0.0
    return e


def _mask() -> ConfigDict:
    """Target-focused masking."""
    k = ConfigDict()
    k.enabled = True
    k.target = "object"  # "object" [P] | "hand_object" | "uniform"
    k.patch = 28  # P, px [P]
    k.num_patches = 12  # rho [P]
    k.object_share = 0.5  # mu [P]
    k.fill = "gaussian"  # "gaussian" [P] | "zero" | "mean"
    return k


def _decoder() -> ConfigDict:
    """The decoder of image and features."""
    r = ConfigDict()
    r.widths = (256, 256, 128, 64)  # at strides patch, 8, 4, 2 px [D]
    r.hidden = (512, 512, 256, 128)
    r.multiscale = True  # False: last level only (Table V, row 2)
    r.width_point = 223  # C [P]
    return r


def _points() -> ConfigDict:
    """Where signed distances are asked for."""
    p = ConfigDict()
    p.num_hand = 600  # [P]
    p.num_object = 200  # [P]
    p.scale = 3.1  # metres -> the cube [-1, 1]^3 [H]
    p.octaves = 5  # of gamma(p): 3 x 5 x 2 = 30 [P]
    p.grid_size = 64  # points per axis of the inference grid [H]
    # "coarse_to_fine" [D]: dense's points by 1 % of its evaluations | "dense" [H]
    p.sampler = "coarse_to_fine"
    p.coarse_factor = 16  # coarse_to_fine: its first cells are this many points wide
    p.refine_share = 0.012  # coarse_to_fine: of the evaluations of "dense", on the rest
    return p


def _sdf() -> ConfigDict:
    """The signed distance networks."""
    f = ConfigDict()
    f.width = 512  # [H]
    f.depth = 4  # hidden layers; the input re-enters before the third [H]
    f.dropout = 0.2  # [H]
    return f


def _pointnet() -> ConfigDict:
    """The point encoders."""
    n = ConfigDict()
    n.widths = (64, 128)  # shared MLP before C [D]
    return n


def _fusion() -> ConfigDict:
    """How signed distances and points meet."""
    u = ConfigDict()
    u.explicit = True  # False: no PointNet (Table V, row 3)
    u.sdf_sign = 1  # +1 [P, H code] | -1 [H paper]
    u.beta_init = 0.1  # [H]
    u.beta_floor = 2e-3  # [H]
    return u


def _heads() -> ConfigDict:
    """The transformers over points."""
    h = ConfigDict()
    h.num_heads = 4
    h.width_mlp = 1024
    h.dropout = 0.1
    h.hand_encoder_layers = 6
    h.hand_decoder_layers = 4
    h.object_encoder_layers = 3
    h.object_rotation = "rot6d"  # "rot6d" [D] | "axis_angle" [P]
    h.cross_points = False  # hand tokens see object points and vice versa [H]
    return h


def _targets() -> ConfigDict:
    """What the network is to say."""
    t = ConfigDict()
    t.num_hand_sdf = 600  # supervision points [H]
    t.num_object_sdf = 200
    t.sdf_clamp = 0.15  # in normalised units [H]
    t.near_share = 0.5  # of the supervision points, near the surface [D]
    t.near_sigma = 0.03  # metres, spread of those points [D]
    t.object_sdf = "exact"  # "exact": point to triangle | "grid": baked lattice
    t.heatmap_sigma_px = 1.25  # pixels of the heat map [H]
    t.point_jitter = (0.03, 0.05, 0.07)  # normalised; up to 30, 70, 100 % of an epoch
    return t


def _losses() -> ConfigDict:
    """How its errors are weighed."""
    l = ConfigDict()
    l.rotation = "matrix"  # "matrix" [D] | "axis_angle" [P]
    w = l.weights = ConfigDict()
    w.rec = 1.0  # lambda_1 [P]
    w.mano = 1.0  # lambda_2 [P]
    w.obj = 1.0  # lambda_3 [P]
    w.sdf = 1.0  # lambda_4 [P]
    w.others = 1.0  # lambda_5 [P]: scales the group below, whose weights are [H]
    w.mano_pose = 1.0  # within L_mano (HOISDF: 10)
    w.mano_shape = 1.0  # (HOISDF: 0.1)
    w.obj_rotation = 1.0  # within L_obj (HOISDF: 0.7)
    w.obj_translation = 1.0  # (HOISDF: 100)
    w.sdf_hand = 1.0  # within L_SDF (HOISDF: 50)
    w.sdf_object = 1.0  # (HOISDF: 25)
    w.vertices = 1e4  # within L_others, all down to the masks
    w.joints = 1e4
    w.vote = 0.1
    w.vote_class = 1.0
    w.joint_aggregate = 0.1
    w.heatmap = 1e-3
    w.hand_mask = 1.0
    w.object_mask = 1.0
    w.auxiliary = 1.0  # scales the group below, there only with model.auxiliary [D]
    w.aux_hand_box = 5.0  # sides of the view
    w.aux_object_box = 5.0
    w.aux_wrist_px = 5.0
    w.aux_wrist_depth = 1.0  # logarithm
    w.aux_object_name = 0.2
    return l


def _optimizer() -> ConfigDict:
    """Adam and its learning rate."""
    o = ConfigDict()
    o.learning_rate = 1e-4  # [P]
    o.schedule = "step"  # "step" [P] | "cosine" | "constant"
    o.decay = 0.7  # "step": factor [P]
    o.decay_epochs = 5  # "step": every so many epochs [P]
    o.warmup_steps = 0
    o.weight_decay = 0.0  # Adam [P]; > 0 makes it AdamW
    o.b1 = 0.9
    o.b2 = 0.999
    o.clip_norm = 0.0  # 0 = no clipping
    o.encoder_lr_multiplier = 1.0
    o.encoder_layer_decay = 1.0  # < 1: lower rates for earlier encoder blocks
    return o


def _train() -> ConfigDict:
    """Length, checkpoints and logs of a training."""
    g = ConfigDict()
    g.batch_size = 24  # global, whatever the number of devices [P]
    g.accumulate = 1  # split each batch into so many passes (memory)
    g.epochs = 60.0  # [P]
    g.steps = 0  # > 0 overrides epochs
    g.switch_epoch = 40.0  # from here on the network's own points are used ... [H]
    g.own_points_probability = 0.6  # ... with this probability per step [H]
    g.log_every = 50  # steps
    g.checkpoint_every = 1000
    g.keep_checkpoints = 3
    g.on_failed_save = "go_on"  # when a checkpoint cannot be written: "go_on" | "stop"
    g.max_skipped_in_a_row = 20  # steps not finite before a run gives up; 0 = never
    g.eval_every = 0  # steps; 0 = at the end only; on the way: eval/step_<n>/
    g.figures_every = 1000  # pictures for TensorBoard
    g.wandb = ""  # project on Weights & Biases, if that package is there; "" = none
    g.init_from = ""  # workdir or export whose parameters start this run
    return g


def _evaluate() -> ConfigDict:
    """The pass over the evaluation split."""
    v = ConfigDict()
    v.batch_size = 24
    v.num_figures = 8
    v.fingertips = "ho3d"  # vertex list for tips, see hand/mano.py
    return v
