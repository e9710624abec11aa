"""The page: one file, nothing fetched, meshes as they were; in a browser if any."""

import base64
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import trimesh

from homae_jax.viz import gallery, run_page
from homae_jax.viz.overlay import Mesh

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None
)
BALL = trimesh.creation.icosphere(subdivisions=2, radius=0.05)
NAMES = ("b10.jpg", "b2.jpg", "<b>&\"'</script>.jpg")
ERRORS = (12.5, None, 3.25)


def entries():
    rng = np.random.default_rng(0)
    for index, (name, error) in enumerate(zip(NAMES, ERRORS, strict=True)):
        center = np.array([0.01 * index, 0.0, 0.5])
        ball = Mesh(BALL.vertices + center, np.asarray(BALL.faces), (242, 166, 110))
        box = Mesh(
            BALL.vertices * [1, 2, 1] + 0.1, np.asarray(BALL.faces), (74, 163, 186)
        )
        picture = gallery.embedded_jpeg(
            rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        )
        values = {"error": error, "hand occlusion": 10.0 * index}
        yield gallery.Entry(name, "note", "b/", picture, (ball, box), values)


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "index.html"
    gallery.write_gallery(path, list(entries()), title="a <title>")
    return path


def data_of(text):
    return json.loads(re.search(r'application/json">(.*?)</script>', text, re.S)[1])


def test_write_gallery_keeps_meshes_to_a_hundredth_of_a_millimetre(page):
    data = data_of(page.read_text())
    assert [entry["name"] for entry in data["entries"]] == list(NAMES)
    assert len(data["faces"]) == 1  # all meshes have the same
    mesh = data["entries"][1]["meshes"][0]
    steps = np.frombuffer(base64.b64decode(mesh["steps"]), "<i2").reshape(-1, 3)
    vertices = np.array(mesh["origin"]) + mesh["pitch"] * steps
    np.testing.assert_allclose(
        vertices, BALL.vertices + np.array([0.01, 0, 0.5]), atol=1e-5
    )
    faces = np.frombuffer(base64.b64decode(data["faces"][0]), "<u2").reshape(-1, 3)
    np.testing.assert_array_equal(faces, BALL.faces)


def test_write_gallery_fetches_nothing_and_escapes_names(page):
    text = page.read_text()
    assert "a &lt;title&gt;" in text and "default-src 'none'" in text
    assert not re.search(r"https?://|src=\"(?!data:)|@import|url\(", text)
    assert text.count("</script>") == 3


def test_keys_that_nobody_has_are_left_out(tmp_path):
    bare = [e._replace(values={"error": None, "x": 1.0}) for e in entries()]
    gallery.write_gallery(tmp_path / "i.html", bare, title="t")
    assert data_of((tmp_path / "i.html").read_text())["keys"] == ["x"]


CHECK = """
<script>
const names = () => [...document.querySelectorAll(".card")].map((c) => c.dataset.name);
const click = (n) => document.querySelectorAll("#sorts button")[n].click();
const report = { byName: names() };
click(1); report.byError = names();
click(1); report.rising = names();
document.querySelectorAll(".card")[0].click();
report.caption = document.getElementById("caption").textContent;
report.kind = viewer.kind;
const canvas = document.getElementById("viewer");
const pixels = () => { viewer.paint(); return canvas.toDataURL(); };
const event = (kind, x, y) => canvas.dispatchEvent(
  new PointerEvent(kind, { pointerId: 1, buttons: 1, clientX: x, clientY: y }));
const before = pixels();
report.same = pixels() === before;
event("pointerdown", 100, 100);
event("pointermove", 160, 120);
report.turned = pixels() !== before;
report.yaw = viewer.state.yaw;
document.body.textContent = "REPORT" + JSON.stringify(report) + "END";
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_page_sorts_and_turns_in_a_browser(page):
    page.write_text(page.read_text().replace("</body>", CHECK + "</body>"))
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader", "--virtual-time-budget=5000", "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False
    )
    report = json.loads(html.unescape(re.search("REPORT(.*)END", done.stdout, re.S)[1]))
    assert report["byName"] == [NAMES[2], "b2.jpg", "b10.jpg"]
    assert report["byError"] == ["b10.jpg", NAMES[2], "b2.jpg"]  # unknown ones last
    assert report["rising"] == [NAMES[2], "b10.jpg", "b2.jpg"]
    assert report["caption"] == NAMES[2]
    assert report["same"] and report["turned"] and report["yaw"] > 0.4, report
    assert report["kind"] in ("webgl", "canvas")


def test_write_page_says_the_same_in_html_and_markdown(tmp_path):
    picture = np.zeros((20, 30, 3), np.uint8)
    blocks = [
        run_page.Block("T<1>", ("run", "MJE"), [("a|b", "21.8")], ("a note",)),
        run_page.Block("Curves", picture=picture),
    ]
    path = run_page.write_page(tmp_path, [run_page.Section("S", blocks)], title="R")
    page, text = path.read_text(), (tmp_path / "report.md").read_text()
    assert "T&lt;1&gt;" in page and "21.8" in page and "data:image/jpeg" in page
    assert "| a\\|b | 21.8 |" in text and "report_0_1.png" in text
    assert (tmp_path / "report_0_1.png").is_file()
    assert not re.search(r"https?://|<script", page)
