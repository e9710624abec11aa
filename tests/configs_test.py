"""Configurations: the paper's values and shapes, and sweeps that name real keys."""

import importlib
import math
import re
from operator import attrgetter

import jax
import jax.numpy as jnp
import pytest

from configs import common, dexycb, ho3d, synthetic
from homae_jax import assembly, config_checks, config_flags, runtime
from homae_jax.errors import UserError
from tests import toy


def test_common_holds_the_papers_setting():
    c = common.get_config()
    assert (c.data.image_size, c.model.mask.patch, c.model.mask.num_patches) == (
        224,
        28,
        12,
    )
    assert (c.model.points.num_hand, c.model.points.num_object) == (600, 200)
    assert (c.model.decoder.width_point, c.train.batch_size) == (223, 24)
    assert (c.optimizer.learning_rate, c.optimizer.decay) == (1e-4, 0.7)
    assert [c.losses.weights[k] for k in ("rec", "mano", "obj", "sdf")] == [1.0] * 4


@pytest.mark.parametrize(
    ("is_faster", "dtype"), [(True, "bfloat16"), (False, "float32")]
)
def test_products_run_in_what_the_device_is_faster_in(is_faster, dtype, monkeypatch):
    monkeypatch.setattr(runtime, "has_bfloat16", lambda: is_faster)
    assert assembly.build_model(synthetic.get_config()).dtype == dtype
    assert assembly.build_model(ho3d.get_config()).dtype == "bfloat16"


@pytest.mark.parametrize("table", ["table5", "table6", "table7"])
def test_sweep_changes_only_keys_that_exist(table):
    module = importlib.import_module(f"configs.ablations.{table}")
    for setting, overrides in module.sweep().items():
        c = module.get_config(setting)
        flat = c.to_dict()
        for key, value in overrides.items():
            part = flat
            for name in key.split("."):
                part = part[name]
            assert part == value
        assert c.sweep == setting


def test_sweep_refuses_an_unknown_setting():
    module = importlib.import_module("configs.ablations.table6")
    with pytest.raises(UserError, match="patches_4"):
        module.get_config("patches_5")


@pytest.mark.parametrize(
    "config", [ho3d.get_config(), synthetic.get_config(), dexycb.get_config()]
)
def test_model_of_a_config_builds_with_its_shapes(config):
    """By eval_shape: nothing is computed or allocated."""
    model, mano, templates = assembly.build_model(config), *_toys()

    def answer(key):
        params = assembly.init_params(
            model, config, mano=mano, templates=templates, key=key
        )
        batch = jax.tree.map(jnp.asarray, assembly.blank_batch(config, 2))
        return model.apply(
            {"params": params},
            batch,
            mano,
            reconstruct=True,
            mask_image=True,
            rngs={"mask": key},
        )

    out = jax.eval_shape(answer, jax.random.key(0))
    size, points = config.data.image_size, config.model.points
    assert out.image.shape == (2, size, size, 3)
    assert out.heatmap.shape == (2, size // 2, size // 2)
    assert out.hand_points_norm.shape == (2, points.num_hand, 3)
    layers = config.model.heads.hand_decoder_layers
    assert out.hand_rotmat.shape == (layers, 2, 16, 3, 3)
    assert out.vertices.shape == (2, 778, 3)


@pytest.mark.parametrize("key", config_checks.WORDS)
def test_a_word_that_a_key_does_not_take_is_named_with_those_it_does(key):
    config = ho3d.get_config()
    words = config_checks.WORDS[key]
    assert attrgetter(key)(config) in words
    wrong = words[0][:-1]
    config.update_from_flattened_dict({key: wrong})
    expected = f"{key}='{wrong}': expected one of {', '.join(words)}"
    for ask in (assembly.build_model, assembly.prepare_data):
        with pytest.raises(UserError) as error:
            ask(config)
        assert str(error.value) == expected


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("seed", -1, "0 or more"),
        ("evaluate.batch_size", 0, "1 or more"),
        ("data.crop_scale", 0.0, "more than 0"),
        ("model.sdf.dropout", 1.0, "0 or more, less than 1"),
        ("data.augment.rotation_probability", 1.5, "0 to 1"),
        ("synthetic.roll_deg", 181.0, "0 to 180"),
        ("train.switch_epoch", math.inf, "a finite number"),
        ("optimizer.learning_rate", math.nan, "a finite number"),
        ("model.decoder.widths", (256, 256, 128, -64), "0 or more"),
        ("targets.point_jitter", (0.1,), "three numbers"),
        ("model.points.grid_size", 1, "2 or more"),
        ("model.points.num_hand", 64**3 + 1, "at most 262144"),
        ("model.points.octaves", 6, None),  # tokens of 262 channels for 4 heads
        ("model.heads.num_heads", 3, "a divisor of a token's 256 channels"),
    ],
)
def test_a_number_that_nothing_could_be_done_with_is_named(key, value, wanted):
    config = ho3d.get_config()
    config.update_from_flattened_dict({key: value})
    said = f"^{re.escape(key)}=.*: expected {wanted}"
    if wanted is None:
        said = "^model.heads.num_heads=4: expected a divisor of a token's 262"
    for ask in (assembly.build_model, assembly.prepare_data):
        with pytest.raises(UserError, match=said):
            ask(config)


def test_every_rule_is_about_a_key_there_is():
    keys = set(config_flags.key_names())
    for rule in (
        "AT_LEAST_ONE",
        "ABOVE_ZERO",
        "SHARES",
        "HALF_TURNS",
        "BELOW_ONE",
        "SIGNED",
    ):
        assert set(getattr(config_checks, rule)) <= keys
    config_checks.check(synthetic.get_config("long"))


def test_paper_setting_has_the_papers_shapes():
    config = ho3d.get_config()
    model, mano, templates = assembly.build_model(config), *_toys()
    params = jax.eval_shape(
        lambda key: assembly.init_params(
            model, config, mano=mano, templates=templates, key=key
        ),
        jax.random.key(0),
    )
    assert params["vit_out"]["kernel"].shape == (768, 256)  # F: 16 x 16 x 256
    assert params["sdf_hand"]["hidden_0"]["kernel"].shape == (223 + 30 + 3, 512)
    assert params["pointnet_hand"]["join_1"]["kernel"].shape[-1] == 223
    assert params["head_hand"]["queries"].shape == (1, 17, 256)
    assert params["vit"]["position_embedding"].shape == (1 + 16 * 16, 768)


def _toys():
    return toy.toy_mano(), toy.toy_templates()
