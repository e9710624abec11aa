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
    assert "None of step 7,000 were stored" in text
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
    protocol = RESULT["protocol"] | {"step": 6000}  # the card is of another
    path.write_text(
        json.dumps(RESULT | groups | {"excluded": {}, "protocol": protocol})
    )
    assert "None of step 7,000 were stored" in card(ho3d.get_config(), tmp_path)


def test_model_card_says_what_prediction_costs(tmp_path):
    """Two evaluations of a split: both are rows of one table."""
    groups = {"per_object": {}, "by_occlusion": {}, "other_protocols": {}}
    (tmp_path / "eval").mkdir()
    for name, root, mje in (("", "gt", 21.5), ("_predicted_root", "predicted", 71.4)):
        protocol = RESULT["protocol"] | {"root": root, "split": "evaluation"}
        result = RESULT | groups | {"excluded": {}, "protocol": protocol}
        result["metrics"] = RESULT["metrics"] | {"mje_mm": mje}
        path = tmp_path / "eval" / f"ho3d_evaluation{name}.json"
        path.write_text(json.dumps(result))
    text = card(ho3d.get_config(), tmp_path)
    rows = text.split("**What prediction costs, ho3d evaluation, mm**")[1]
    assert "| all given | 21.5 |" in rows and "| predicted: root | 71.4 |" in rows
    assert text.count("**Table III") == 1  # of what was given


def test_model_card_names_command_time_and_licence(tmp_path):
    lines = [{"step": s, "steps_per_second": 0.5} for s in (50, 100)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = card(synthetic.get_config(), tmp_path)
    assert "`bash launch/train.sh --config=configs/synthetic.py`" in text
    assert "| time of its steps | 3m20s |" in text and "Apache-2.0" in text


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
