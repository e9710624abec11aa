"""Figures: sizes, where colours land, files that are whole."""

import itertools

import cv2
import numpy as np
import pytest
import trimesh

from homae_jax.viz import figures

RED = np.zeros((20, 20, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
BLUE = RED[..., ::-1].copy()


def test_write_png_round_trips_and_leaves_no_part(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    figures.write_png(tmp_path / "deep" / "a.png", image)
    read = cv2.imread(str(tmp_path / "deep" / "a.png"))[..., ::-1]
    np.testing.assert_array_equal(read, image)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_picture_from_normalised_round_trips():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    normalised = (image / 255.0 - np.array(mean)) / np.array(std)
    back = figures.picture_from_normalised(normalised, mean, std)
    np.testing.assert_array_equal(back, image)


def test_contact_sheet_puts_pictures_into_their_cells():
    sheet = figures.contact_sheet([[RED, BLUE], [None, RED]], cell=40, gap=4)
    assert sheet.shape == (4 + 2 * 44, 4 + 2 * 44, 3)
    assert (sheet[24, 24] == [255, 0, 0]).all()
    assert (sheet[24, 68] == [0, 0, 255]).all()
    assert (sheet[68, 24] == 255).all()
    assert (sheet[68, 68] == [255, 0, 0]).all()


def test_contact_sheet_titles_add_ink_outside_the_cells():
    plain = figures.contact_sheet([[RED, BLUE]], cell=40)
    titled = figures.contact_sheet(
        [[RED, BLUE]], cell=40, column_titles=("a", "b"), row_titles=[("row",)]
    )
    extra = titled.shape[0] - plain.shape[0]
    assert extra > 0
    assert (titled[:extra] < 128).any()


def test_reconstruction_sheet_keeps_triples_together():
    sheet = figures.reconstruction_sheet(
        [RED] * 3, [BLUE] * 3, [RED] * 3, groups_per_row=2, cell=40
    )
    hue = sheet[60].argmax(-1)[(sheet[60] < 250).any(-1)]
    changes = hue[np.insert(np.diff(hue) != 0, 0, True)]
    assert changes.tolist() == [0, 2, 0, 2, 0]


@pytest.mark.parametrize("has_truth", [True, False])
def test_qualitative_figure_has_a_cell_for_each_view(has_truth):
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.06)
    faces = np.asarray(ball.faces)
    vertices = np.asarray(ball.vertices) + np.array([[0, 0, 0.5]])
    hand = np.resize(vertices, (778, 3))
    gt = figures.PosedPair(hand if has_truth else None, vertices + 0.03)
    row = figures.QualitativeRow(
        image=np.full((32, 32, 3), 90, np.uint8),
        intrinsics=np.array([[60.0, 0, 15.5], [0, 60, 15.5], [0, 0, 1]]),
        gt=gt,
        pred=figures.PosedPair(hand, vertices),
        object_faces=faces,
        caption="frame",
    )
    cells = figures.qualitative_row(row, faces, cell=48)
    assert len(cells) == len(figures.QUALITATIVE_COLUMNS)
    assert all(cell.shape == (48, 48, 3) for cell in cells)
    views = [cells[0], cells[1], cells[2], cells[3], cells[5]]
    assert all((a != b).any() for a, b in itertools.pairwise(views))
    figure = figures.qualitative_figure([row, row], faces, cell=48)
    assert figure.shape[0] > 2 * 48 and figure.shape[1] > 6 * 48


def test_sdf_slice_tells_inside_from_outside_and_draws_the_zero_line():
    axis = np.linspace(-1, 1, 32)
    sdf = np.hypot(axis[:, None], axis[None]) - 0.5
    image = figures.sdf_slice(sdf, limit=0.5, side=100).astype(int)
    assert image[50, 50, 0] > image[50, 50, 2] + 40
    assert image[5, 5, 2] > image[5, 5, 0] + 40
    dark_y, dark_x = np.nonzero(image.sum(-1) < 240)
    radius = np.hypot(dark_x - 49.5, dark_y - 49.5) / 49.5
    np.testing.assert_allclose(radius, 0.5, atol=0.06)
