"""What a look at a data set's folder finds; the same for every data set."""

from collections.abc import Callable
from typing import Any, NamedTuple

from homae_jax.data.source import Frame
from homae_jax.diagnosis.agreement import Model


class Count(NamedTuple):
    """A number that the publication gives as well, perhaps."""

    name: str
    found: int
    published: int | None = None


class Shown(NamedTuple):
    """A split to draw frames of."""

    source: Any  # data.source.Source
    model: Callable[[str], Model | None]  # by the object's name
    caption: Callable[[int, Frame], str]  # of a row: how far its labels agree


class Survey(NamedTuple):
    """One data set's folder."""

    title: str
    counts: tuple[Count, ...]
    missing: tuple[str, ...]  # paths relative to the folder
    left_out: dict[str, dict[str, list[str]]]  # split -> reason -> frames
    notes: tuple[str, ...]
    splits: dict[str, Shown]
