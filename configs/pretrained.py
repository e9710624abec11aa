"""The checkpoint that ships with the project: the synthetic default, and its own eyes.

    bash launch/train.sh --config=configs/pretrained.py
    python -m homae_jax.export --workdir=runs/pretrained --out=homae_jax/pretrained \\
        --orbax=false --program=false

The auxiliary head finds hand and object in a picture that nobody has labelled; that
takes the encoder a second time over the whole picture.
"""

import ml_collections

from configs import synthetic


def get_config() -> ml_collections.ConfigDict:
    """The short synthetic setting with the auxiliary head, objects held any way."""
    c = synthetic.get_config()
    c.name = "pretrained"
    c.model.auxiliary = True
    c.model.dtype = "float32"  # as it was trained, on every device
    c.data.root = "cache/synthetic_pretrained"
    c.synthetic.update(num_train=5000, roll_deg=25.0, grips="any", grip_spread=0.3)
    c.train.steps = 4000
    return c
