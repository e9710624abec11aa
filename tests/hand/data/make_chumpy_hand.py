"""Makes the genuine chumpy pickles beside this file. Runs under Python 2.

Made with Python 2.7.18, numpy 1.16.6, scipy 1.2.3, chumpy 0.70, all but the first from
PyPI:

    python3 -m tests.hand.data.toy_hand FOLDER
    python2.7 -m pip install numpy==1.16.6 scipy==1.2.3 chumpy==0.70
    python2.7 tests/hand/data/make_chumpy_hand.py FOLDER
    xz -9e FOLDER/MANO_RIGHT.pkl FOLDER/MANO_LEFT.pkl

The form is the official one: protocol 2, `shapedirs` a chumpy selection of the first 10
of 20 directions, `J_regressor` a compressed-column matrix, all else arrays. In the left
file `v_template` and `weights` are chumpy arrays too, as in models saved after fitting.
"""

import os
import pickle
import sys

import chumpy
import numpy as np
import scipy.sparse


def main(folder):
    for side in ("right", "left"):
        arrays = np.load(os.path.join(folder, side + ".npz"))
        hand = {name: arrays[name] for name in arrays.files}
        hand["shapedirs"] = chumpy.array(hand["shapedirs"])[:, :, :10]
        hand["J_regressor"] = scipy.sparse.csc_matrix(hand["J_regressor"])
        hand["bs_style"], hand["bs_type"] = "lbs", "lrotmin"
        if side == "left":
            for name in ("v_template", "weights"):
                hand[name] = chumpy.array(hand[name])
        path = os.path.join(folder, "MANO_{}.pkl".format(side.upper()))  # noqa: UP032
        with open(path, "wb") as out:
            pickle.dump(hand, out, protocol=2)


if __name__ == "__main__":
    if sys.version_info[0] != 2:  # noqa: UP036
        sys.exit("run me under Python 2, see my first lines")
    main(sys.argv[1])
