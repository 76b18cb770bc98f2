"""What a data set is, and what tells where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""Inputs and labels of both splits: train_x, train_y, test_x, test_y."""


class DataError(Exception):
    """A data set is not there or is not what it should be; the message says what to do."""


class Dataset(NamedTuple):
    """Inputs and labels.

    Attributes:
      name: of `experiments.data.SOURCES`.
      train_x, test_x: float32, images ``[examples, height, width, channels]``, normalised by the
        mean and standard deviation of each channel over the training set, or characters
        ``[examples, length]``.
      train_y, test_y: int32 ``[examples]``, or ``[examples, length]``, one per character.
      classes: number of classes.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int

    @property
    def is_text(self) -> bool:
        """Whether the inputs are characters: whole numbers below ``classes``."""
        return self.train_x.ndim == 2


class Published(NamedTuple):
    """What a data set is made from with TensorFlow Datasets.

    Attributes:
      builder: name of its TFDS builder.
      files: names of the published files.
      urls: ``builder -> {file: URL}``.
      arrays: ``({file: path}, split) -> (images, labels)``, uint8.
      label_names: for a builder that reads them from the files, with TensorFlow; else empty.
      numbered: whether its examples carry an ``id``.
      unpacked: folder that the one file unpacks to, and that does as well; empty: there is none.
    """

    builder: str
    files: tuple[str, ...]
    urls: Callable[[Any], dict[str, str]]
    arrays: Callable[[Mapping[str, Any], str], tuple[np.ndarray, np.ndarray]]
    label_names: tuple[str, ...] = ()
    numbered: bool = False
    unpacked: str = ""


class Source(NamedTuple):
    """Where a data set comes from: from a program, or from a folder of prepared files.

    Attributes:
      arrays: returns it from nothing; None: it is read with TensorFlow Datasets.
      published: what it is prepared from, for `experiments.data.prepared`.
      classes: number of classes.
      side: rows and columns of its images; 0: it is text.
    """

    arrays: Callable[[], Arrays] | None = None
    published: Published | None = None
    classes: int = 10
    side: int = 0

    @property
    def is_text(self) -> bool:
        """Whether its examples are characters, not images."""
        return not self.side
