"""A short torture; `bash launch/torture.sh` is the long one."""

import math

import pytest

from tests.reliability.torture import Torture

NUM_KILLS = 4


@pytest.mark.parametrize(
    "engine", ["mesh", pytest.param("pmap", marks=pytest.mark.slow)]
)
def test_a_training_killed_at_random_moments_ends_as_an_untouched_one(tmp_path, engine):
    arguments = ["--config.train.steps=30", f"--config.parallel.engine={engine}"]
    torture = Torture("toy", tmp_path, seed=1, arguments=arguments)
    torture.reference()
    assert torture.run(NUM_KILLS, until=math.inf) >= 1
    assert torture.num_kills == NUM_KILLS


@pytest.mark.slow
def test_the_real_training_survives_too(tmp_path):
    torture = Torture("tiny", tmp_path, seed=2)
    torture.prepare()
    torture.reference()
    assert torture.run(10, until=math.inf) >= 1
