"""The 21 YCB objects of DexYCB and HO-3D: ids, names, symmetry, sizes.

Sizes are of the models in the PoseCNN frame (YCB-Video models), metres: the box centre
is where the middle of the axis-aligned box lies in the model frame, the extent its
sides; published or measured values, estimated ones where `EXTENTS` says so.
"""

YCB_NAMES = {
    1: "002_master_chef_can",
    2: "003_cracker_box",
    3: "004_sugar_box",
    4: "005_tomato_soup_can",
    5: "006_mustard_bottle",
    6: "007_tuna_fish_can",
    7: "008_pudding_box",
    8: "009_gelatin_box",
    9: "010_potted_meat_can",
    10: "011_banana",
    11: "019_pitcher_base",
    12: "021_bleach_cleanser",
    13: "024_bowl",
    14: "025_mug",
    15: "035_power_drill",
    16: "036_wood_block",
    17: "037_scissors",
    18: "040_large_marker",
    19: "051_large_clamp",
    20: "052_extra_large_clamp",
    21: "061_foam_brick",
}

HO3D_OBJECTS = tuple(YCB_NAMES[i] for i in (2, 3, 5, 9, 10, 11, 12, 14, 15, 17))

# In no training sequence of HO-3D v2, and excluded from HOISDF's object numbers there.
HO3D_UNSEEN = "019_pitcher_base"

BOX_CENTRES = {
    "002_master_chef_can": (-0.001336, 0.000500, -0.003511),
    "003_cracker_box": (-0.000558, -0.001701, -0.004805),
    "004_sugar_box": (0.000952, -0.001467, -0.004365),
    "005_tomato_soup_can": (0.000024, 0.001527, -0.008404),
    "006_mustard_bottle": (-0.001300, -0.002487, 0.011829),
    "007_tuna_fish_can": (0.000157, -0.000115, -0.004263),
    "008_pudding_box": (-0.001165, 0.004202, -0.003119),
    "009_gelatin_box": (-0.001446, 0.000592, -0.003609),
    "010_potted_meat_can": (-0.002420, -0.000308, -0.008072),
    "011_banana": (0.018673, -0.012192, 0.001464),
    "019_pitcher_base": (-0.005337, -0.005886, -0.025612),
    "021_bleach_cleanser": (-0.004929, 0.002480, 0.013292),
    "024_bowl": (0.000227, -0.000795, 0.002968),
    "025_mug": (0.008468, 0.000700, 0.001615),
    "035_power_drill": (-0.009071, -0.020936, 0.002119),
    "036_wood_block": (-0.001427, 0.002531, -0.017189),
    "037_scissors": (-0.007054, 0.028132, -0.000042),
    "040_large_marker": (-0.000046, 0.002104, -0.000350),
    "051_large_clamp": (-0.010518, 0.001964, 0.000475),
    "052_extra_large_clamp": (0.000395, 0.010413, -0.000162),
    "061_foam_brick": (0.000081, -0.000081, 0.008244),
}

EXTENTS = {
    "002_master_chef_can": (0.1023, 0.1024, 0.1401),
    "003_cracker_box": (0.0717, 0.1640, 0.2135),
    "004_sugar_box": (0.0495, 0.0940, 0.1760),
    "005_tomato_soup_can": (0.0679, 0.0678, 0.1020),
    "006_mustard_bottle": (0.0972, 0.0666, 0.1914),
    "007_tuna_fish_can": (0.0856, 0.0856, 0.0335),  # estimated
    "008_pudding_box": (0.1100, 0.0890, 0.0350),  # estimated
    "009_gelatin_box": (0.0850, 0.0730, 0.0280),  # estimated
    "010_potted_meat_can": (0.1021, 0.0603, 0.0836),
    "011_banana": (0.1089, 0.1784, 0.0367),
    "019_pitcher_base": (0.1490, 0.1448, 0.2426),
    "021_bleach_cleanser": (0.1024, 0.0677, 0.2506),
    "024_bowl": (0.1614, 0.1611, 0.0550),
    "025_mug": (0.1170, 0.0931, 0.0814),
    "035_power_drill": (0.1842, 0.1874, 0.0573),
    "036_wood_block": (0.0850, 0.0850, 0.2000),  # estimated
    "037_scissors": (0.0953, 0.2013, 0.0161),
    "040_large_marker": (0.0180, 0.1210, 0.0180),  # estimated
    "051_large_clamp": (0.1200, 0.1713, 0.0392),
    "052_extra_large_clamp": (0.2020, 0.1750, 0.0360),  # estimated
    "061_foam_brick": (0.0526, 0.0778, 0.0511),
}
