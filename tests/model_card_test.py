"""The card of an export: what it was trained on, and its results if there are any."""

import json

import pytest

from configs import ho3d, synthetic
from homae_jax import bundle, model_card
from homae_jax.errors import UserError
from tests import toy
from tests.sweep_test import RESULT


def card(config, folder):
    return model_card.model_card(
        config, step=7000, num_parameters=3_810_000, folder=folder
    )


def test_model_card_says_what_it_was_trained_on(tmp_path):
    text = card(synthetic.get_config(), tmp_path)
    assert "3.81 M" in text and "7,000" in text and "no photograph" in text
    assert "no: they must be given" in text
    assert "None were stored" in text
    config = ho3d.get_config()
    config.model.auxiliary = True
    text = card(config, tmp_path)
    assert "academic use only" in text and "no: they must" not in text
    given = text.split("Given at test time: ")[1].split(".")[0]
    assert set(given.split(", ")) == {"root", "boxes", "object_center"}


def test_model_card_holds_the_results_of_the_run(tmp_path):
    groups = {"per_object": {}, "by_occlusion": {}, "other_protocols": {}}
    (tmp_path / "eval").mkdir()
    path = tmp_path / "eval" / "ho3d_evaluation.json"
    path.write_text(json.dumps(RESULT | groups | {"excluded": {}}))
    (tmp_path / "eval" / "ho3d_evaluation_frames.json").write_text('{"frames": []}')
    assert "**Table III" in card(ho3d.get_config(), tmp_path)


def test_objects_round_trip_without_their_lattices(tmp_path):
    path = tmp_path / "objects.npz"
    path.write_bytes(bundle.pack_objects(toy.toy_templates(), ("box", "ball")))
    templates, names = bundle.read_objects(path)
    assert names == ("box", "ball")
    assert (templates.vertices == toy.toy_templates().vertices).all()
    assert path.stat().st_size < 100_000
    path.write_bytes(b"PK damaged")
    with pytest.raises(UserError, match="export again"):
        bundle.read_objects(path)
