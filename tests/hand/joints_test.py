import numpy as np

from homae_jax.hand import joints


def test_orders_are_each_others_inverse():
    order = np.arange(21)
    simple = order[joints.MANO_TO_SIMPLE]
    np.testing.assert_array_equal(simple[joints.SIMPLE_TO_MANO], order)


def test_simple_order_lists_fingers_from_thumb_to_little():
    names = [joints.JOINT_NAMES[i] for i in joints.MANO_TO_SIMPLE]
    parts = ("mcp", "pip", "dip", "tip")
    fingers = ("thumb", "index", "middle", "ring", "little")
    assert names == ["wrist", *(f"{f}_{p}" for f in fingers for p in parts)]


def test_mano_order_lists_little_before_ring():
    assert joints.JOINT_NAMES[7:13:3] == ("little_mcp", "ring_mcp")
    assert joints.JOINT_NAMES[16:] == tuple(
        f"{f}_tip" for f in ("thumb", "index", "middle", "ring", "little")
    )


def test_bones_join_every_joint_of_one_finger_to_the_wrist():
    assert len(joints.BONES) == 20
    assert sorted(child for _, child in joints.BONES) == list(range(1, 21))
    for parent, child in joints.BONES:
        finger = joints.JOINT_NAMES[child].split("_")[0]
        assert parent == 0 or joints.JOINT_NAMES[parent].startswith(finger)
