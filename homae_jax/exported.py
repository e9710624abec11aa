"""Runs an exported network without the code that made it.

    from homae_jax.exported import ExportedModel

    model = ExportedModel("exports/homae_ho3d")
    answer = model(image, intrinsics, hand_box_px, object_box_px, wrist, object_center)

This file needs jax, numpy and safetensors alone: it may be copied into another project.
The programs are StableHLO for cpu and cuda with any batch size (`jax.export`); the
parameters and the hand come in as arguments. Crops of the size in ``program.json``,
metres, OpenCV camera, pixels of the crop with the top-left centre at (0, 0).
"""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors import numpy as safetensors

PROGRAM, LOCATE, ABOUT = "program.bin", "locate.bin", "program.json"
MANIFEST, PARAMETERS, HAND = "manifest.json", "parameters.safetensors", "hand.npz"


class ExportedModel:
    """The network of an export as plain functions of arrays."""

    def __init__(self, folder: str | Path, *, hand: str | Path | None = None):
        """Reads programs, parameters and hand after comparing their hashes.

        Args:
          hand: npz of the hand (`python -m homae_jax.convert mano`); None: the one in
            the export, which only hands free to share are.

        Raises:
          ValueError: files missing or altered.
        """
        self.folder = Path(folder)
        try:
            manifest = json.loads(self._read(MANIFEST, None))
            self._hashes = {k: v["sha256"] for k, v in manifest["files"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.folder / MANIFEST}: lists no files") from error
        self.about = json.loads(self._checked(ABOUT))
        self._params = jax.device_put(safetensors.load(self._checked(PARAMETERS)))
        self._program = export.deserialize(bytearray(self._checked(PROGRAM)))
        self._hand = jax.device_put(self._read_hand(hand))
        self._locate = None
        if LOCATE in self._hashes:
            self._locate = export.deserialize(bytearray(self._checked(LOCATE)))

    def __call__(
        self,
        image: np.ndarray,
        intrinsics: np.ndarray,
        hand_box_px: np.ndarray,
        object_box_px: np.ndarray,
        wrist: np.ndarray,
        object_center: np.ndarray,
    ) -> dict[str, jax.Array]:
        """Answers crops; the first axis of everything is the batch.

        Args:
          image: uint8 RGB [b, s, s, 3].
          intrinsics: of the crops [b, 3, 3].
          hand_box_px: x0, y0, x1, y1 in the crop [b, 4]; likewise `object_box_px`.
          wrist: origin of the hand's points [b, 3]; likewise `object_center`.

        Returns:
          joints [b, 21, 3], vertices [b, 778, 3], hand_rotmat [b, 16, 3, 3],
          hand_betas [b, 10], object_rotmat [b, 3, 3], object_trans [b, 3], both point
          sets with their signed distances, and both masks [b, m, m].
        """
        floats = (intrinsics, hand_box_px, object_box_px, wrist, object_center)
        arrays = [np.asarray(each, np.float32) for each in floats]
        image = _checked_image(image)
        return self._program.call(self._params, self._hand, image, *arrays)

    def locate(self, image: np.ndarray, intrinsics: np.ndarray) -> dict[str, jax.Array]:
        """Boxes, wrist and object of square views, where the network was trained to."""
        if self._locate is None:
            raise ValueError(f"{self.folder}: was trained without auxiliary heads")
        intrinsics = np.asarray(intrinsics, np.float32)
        return self._locate.call(self._params, _checked_image(image), intrinsics)

    def _read(self, name: str, digest: str | None) -> bytes:
        path = self.folder / name
        if not path.is_file():
            raise ValueError(f"{path}: missing; export the run again")
        content = path.read_bytes()
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{path}: differs from its hash in {MANIFEST}")
        return content

    def _checked(self, name: str) -> bytes:
        if name not in self._hashes:
            raise ValueError(f"{self.folder}: the export has no {name}")
        return self._read(name, self._hashes[name])

    def _read_hand(self, given: str | Path | None) -> dict[str, Any]:
        path = Path(given) if given else self.folder / HAND
        if not path.is_file():
            raise ValueError(f"{path}: missing; give the hand by hand=FILE.npz")
        is_ours = not given and HAND in self._hashes
        content = self._checked(HAND) if is_ours else path.read_bytes()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                return {name: archive[name] for name in self.about["hand_arrays"]}
        except (KeyError, zipfile.BadZipFile, TypeError, EOFError) as error:
            raise ValueError(f"{path}: is no hand model made by export") from error


def _checked_image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise ValueError(f"image: wants uint8 RGB, 0 to 255, got {image.dtype}")
    return image
