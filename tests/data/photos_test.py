"""Own pictures: upright, with the camera that EXIF, a field of view or K gives."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from homae_jax.data import photos
from homae_jax.errors import UserError


def save(path, size=(64, 48), focal=None, orientation=None):
    image = Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8))
    exif = image.getexif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    if focal:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = focal
    image.save(path, exif=exif)
    return path


def test_read_photo_turns_a_picture_upright_and_reads_its_focal_length(tmp_path):
    photo = photos.read_photo(save(tmp_path / "a.jpg", focal=28, orientation=6))
    assert photo.image.shape == (64, 48, 3) and photo.focal_35mm == 28.0
    assert photos.read_photo(save(tmp_path / "b.jpg")).focal_35mm is None


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0broken"])
def test_read_photo_refuses_what_is_no_picture(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jpg: not a (readable )?picture"):
        photos.read_photo(path)
    with pytest.raises(UserError, match="smaller than 16 px"):
        photos.read_photo(save(tmp_path / "tiny.png", size=(8, 8)))


def test_read_photo_scales_16_bits_and_puts_the_transparent_on_white(tmp_path):
    deep = np.full((20, 30), 40_000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image = photos.read_photo(tmp_path / "deep.png").image
    assert image.shape == (20, 30, 3) and (image == 40_000 // 256).all()
    clear = np.zeros((20, 30, 4), np.uint8)
    clear[:, :15, 3] = 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    image = photos.read_photo(tmp_path / "clear.png").image
    assert (image[:, :15] == 0).all() and (image[:, 15:] == 255).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1", "F"])
def test_read_photo_reads_every_mode_as_rgb(tmp_path, mode):
    grey = Image.fromarray(np.full((20, 30), 255, np.uint8))
    grey.convert(mode).save(tmp_path / "a.tif")
    image = photos.read_photo(tmp_path / "a.tif").image
    assert image.shape == (20, 30, 3) and (image > 250).all()


@pytest.mark.parametrize(("dtype", "white"), [(np.float32, 1.0), (np.int32, 255)])
def test_read_photo_refuses_32_bits_that_would_be_black(tmp_path, dtype, white):
    Image.fromarray(np.full((20, 30), white, dtype)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: 32 bits a pixel"):
        photos.read_photo(tmp_path / "a.tif")


def test_read_photo_says_what_to_do_with_heic_and_with_damage(tmp_path):
    with pytest.raises(UserError, match="convert it to JPEG first"):
        photos.read_photo(tmp_path / "IMG_1.HEIC")
    whole = save(tmp_path / "a.jpg", size=(400, 300)).read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.jpg: not a readable picture \(image file"):
        photos.read_photo(tmp_path / "a.jpg")


def test_read_photo_says_nothing_of_a_picture_that_is_only_large(tmp_path, recwarn):
    Image.new("1", (12_000, 12_000)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match="too large"):
        photos.read_photo(tmp_path / "large.png")
    assert not recwarn.list


def test_choose_camera_prefers_what_is_known_best():
    k = np.array([[500.0, 0, 30], [0, 510, 20], [0, 0, 1]])
    every = {"intrinsics": k, "fov_deg": 90.0, "focal_35mm": 43.27}
    found = []
    for name in ("intrinsics", "fov_deg", "focal_35mm", None):
        found.append(photos.choose_camera(80, 60, **every))
        every.pop(name, None)
    assert [c.source for c in found] == ["given", "fov", "exif", "assumed"]
    assert [c.is_metric for c in found] == [True, False, False, False]
    np.testing.assert_array_equal(found[0].intrinsics, k)
    np.testing.assert_allclose(found[1].intrinsics[0, 0], 40.0)  # 90 degrees, 80 px
    np.testing.assert_allclose(found[2].intrinsics[0, 0], 100.0)  # the diagonal
    np.testing.assert_allclose(found[3].intrinsics[:2, 2], [39.5, 29.5])


@pytest.mark.parametrize("k", [np.zeros((3, 3)), np.full((3, 3), np.nan)])
def test_choose_camera_refuses_what_is_no_pinhole(k):
    with pytest.raises(UserError, match="K: give"):
        photos.choose_camera(80, 60, intrinsics=k)


def test_choose_camera_refuses_a_center_far_outside():
    k = np.array([[80.0, 0, 9000], [0, 80, 30], [0, 0, 1]])
    with pytest.raises(UserError, match="principal point at 9000 px"):
        photos.choose_camera(80, 60, intrinsics=k)


def test_list_pictures_is_sorted_and_says_when_there_are_none(tmp_path):
    with pytest.raises(UserError, match="holds no picture"):
        photos.list_pictures(tmp_path)
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in photos.list_pictures(tmp_path)] == ["a.jpg", "b.PNG"]
