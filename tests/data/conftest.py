import shutil
from pathlib import Path

import pytest

from tests.data import ho3d_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """The tiny HO-3D tree, for tests that leave it as it is."""
    return ho3d_tree.write_tree(tmp_path_factory.mktemp("ho3d"))


@pytest.fixture
def own_tree(tree, tmp_path):
    """A copy, to break."""
    return Path(shutil.copytree(tree, tmp_path / "ho3d"))
