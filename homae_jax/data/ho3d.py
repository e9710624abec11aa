"""HO-3D v2 and v3 from the official folders.

Only the frames of `<split>.txt` exist for us. The evaluation split labels the wrist, a
hand box and the object; joints and vertices of the hand were published later as
`evaluation_xyz.json` and `evaluation_verts.json` and serve scoring only.
`visibility_<split>.json` ({frame: [hand, object]}) is ours, and optional. What leaves
this module is in the OpenCV camera frame (ho3d_files.py turns it).
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from homae_jax.data import ho3d_files, ho3d_index
from homae_jax.data.ho3d_files import EVALUATION, PICTURE_SUFFIXES, JsonRows
from homae_jax.data.pictures import read_picture
from homae_jax.data.source import Frame, FrameInfo, GroundTruth
from homae_jax.errors import UserError
from homae_jax.objects.ycb import YCB_NAMES
from homae_jax.schema import NUM_HAND_VERTICES, NUM_JOINTS


class Ho3dSource:
    """The frames of one split, in the order of its list.

    Args:
      root: HO-3D's folder, which holds `<split>.txt` and `<split>/<sequence>/`.
      split: "train" or "evaluation".
      cache_dir: where the index is kept, which counts what cannot be read and what is
        not listed, and knows every frame's object; None: without.

    Raises:
      UserError: the list or the split's folder is missing or malformed.
    """

    def __init__(self, root: str | Path, split: str, *, cache_dir: Path | None = None):
        self._root, self._split = Path(root), split
        self._names = ho3d_files.read_list(self._root, split)
        self._visibility = ho3d_files.read_visibility(
            self._root / f"visibility_{split}.json"
        )
        self._index = None
        if cache_dir is not None:
            self._index = ho3d_index.open_index(self._root, split, cache_dir=cache_dir)
        self._truth_joints = self._open_truth("xyz")
        self._truth_vertices = self._open_truth("verts")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Frame:
        sequence, number = self._parts(index)
        meta, path = self._meta(index)
        return Frame(
            index=index,
            image=read_picture(self.picture_path(index)),
            segmentation=ho3d_files.read_mask(self._file(sequence, "seg"), number),
            gt_joints=ho3d_files.read_truth(self._truth_joints, index, NUM_JOINTS),
            **ho3d_files.labels_of(meta, self._split, path),
        )

    def frame_name(self, index: int) -> str:
        """`<sequence>/<number>`, as in the list."""
        return self._names[index]

    def picture_path(self, index: int) -> Path:
        """The frame's picture; UserError where there is none."""
        sequence, number = self._parts(index)
        for suffix in PICTURE_SUFFIXES:
            path = self._file(sequence, "rgb", number + suffix)
            if os.path.isfile(path):  # False, too, where a folder may not be entered
                return path
        wanted = self._file(sequence, "rgb", number + "{.png,.jpg}")
        raise UserError(f"{wanted}: no such picture, yet {self._split}.txt lists it")

    def frame_info(self, index: int) -> FrameInfo:
        """Visible shares (NaN where not known), object and sequence."""
        name = self.frame_name(index)
        hand, obj = self._visibility.get(name, (np.nan, np.nan))
        return FrameInfo(
            hand_visibility=float(hand),
            object_visibility=float(obj),
            object_name=self._object_name(index),
            sequence=self._parts(index)[0],
        )

    def ground_truth(self, index: int) -> GroundTruth | None:
        """What a frame's hand is scored against; None where it is not at hand."""
        if self._split != EVALUATION:
            meta, path = self._meta(index)
            return GroundTruth(
                ho3d_files.hand_labels(meta, self._split, path)["joints"], None
            )
        joints = ho3d_files.read_truth(self._truth_joints, index, NUM_JOINTS)
        if joints is None:
            return None
        vertices = ho3d_files.read_truth(self._truth_vertices, index, NUM_HAND_VERTICES)
        return GroundTruth(joints, vertices)

    def describe(self) -> str:
        """One line: frames in use, the release's number, what is out or unusable."""
        text = f"HO-3D {self._split}: {len(self)} frames"
        if published := ho3d_index.PUBLISHED[self.version].get(self._split):
            text += f" ({self.version}: {published})"
        why = [f"{reason} {count}" for reason, count in self.excluded().items()]
        text += f"; left out: {', '.join(why)}" if why else ""
        masked, num = ho3d_files.count_masked(self._root, self._split, self._names)
        if masked < num and self._split != EVALUATION:  # whose masks nothing needs
            text += f"; masks of {masked} of {num} sequences"
        bad = self.unusable()
        if bad:
            name, reason = next(iter(bad.items()))
            text += f"; unusable: {len(bad)}, the first {name} ({reason})"
        return text

    @functools.cached_property
    def version(self) -> str:
        """ "v2" or "v3"."""
        return ho3d_files.version_of(self._root, self._split, self._names)

    def excluded(self) -> dict[str, int]:
        """Frames in the folders that are not of the split, by reason."""
        return {} if self._index is None else ho3d_index.excluded(self._index)

    def unusable(self) -> dict[str, str]:
        """Frames of the split that cannot be read, with the reason.

        They stay in the split, which is a benchmark's; reading one is an error.
        """
        return {} if self._index is None else ho3d_index.unusable(self._index)

    def read_meta(self, index: int) -> Mapping[str, Any]:
        """The label file as it is, OpenGL camera frame."""
        return self._meta(index)[0]

    def _object_name(self, index: int) -> str:
        """The index's rows begin with the list's, unless one is listed twice."""
        if self._index is not None and self._index.names[index] == self._names[index]:
            number = int(self._index.object_id[index])
            if number:
                return YCB_NAMES[number]
        meta, path = self._meta(index)
        return ho3d_files.object_name(meta, path)

    def _parts(self, index: int) -> tuple[str, str]:
        sequence, number = self._names[index].split("/")
        return sequence, number

    def _file(self, sequence: str, *parts: str) -> Path:
        return self._root.joinpath(self._split, sequence, *parts)

    def _meta(self, index: int) -> tuple[dict[str, Any], Path]:
        sequence, number = self._parts(index)
        path = self._file(sequence, "meta", f"{number}.pkl")
        return ho3d_files.read_meta(path), path

    def _open_truth(self, kind: str) -> JsonRows | None:
        path = self._root / f"{EVALUATION}_{kind}.json"
        if self._split != EVALUATION or not path.is_file():
            return None
        return JsonRows(path, len(self))
