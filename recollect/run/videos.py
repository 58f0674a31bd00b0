"""Moving pictures: GIF by Pillow, which comes with matplotlib, or MP4 where imageio-ffmpeg is."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recollect.types import Array, ConfigError

SUFFIXES = (".gif", ".mp4")
WIDEST = 640
"""Pixels of the longer side; larger frames are made smaller."""
GIF_FRAMES_PER_SECOND = 50
"""Viewers slow down what has more: a GIF counts time in hundredths of a second, 2 are the least."""


def default_suffix() -> str:
    """`.mp4` if imageio-ffmpeg is installed, else `.gif`."""
    return ".mp4" if importlib.util.find_spec("imageio_ffmpeg") else ".gif"


class Video:
    """A video in the making: `add` frames, then `save`; only that writes a file.

    Args:
        path: ends in .gif or .mp4.
        frames_per_second: of what is added; a GIF leaves out frames beyond 50 a second.
    Raises:
        ConfigError: another suffix, or an MP4 without imageio-ffmpeg.
    """

    def __init__(self, path: Path, frames_per_second: float) -> None:
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"a video is a .gif or a .mp4, got {str(path)!r}")
        self._gif = path.suffix == ".gif"
        if not self._gif and default_suffix() == ".gif":
            raise ConfigError(
                f"{path}: an MP4 needs imageio-ffmpeg: install it, or name a file that ends in .gif"
            )
        self.path = path
        self._every = int(np.ceil(frames_per_second / GIF_FRAMES_PER_SECOND)) if self._gif else 1
        self._rate = frames_per_second / self._every
        self._added = 0
        self._frames: list[Any] = []

    def add(self, frame: Array) -> None:
        """Append a frame [H, W, 3] uint8, of the size of the first."""
        if self._added % self._every == 0:
            self._frames.append(self._packed(frame))
        self._added += 1

    def save(self) -> None:
        """Write the file whole or not at all.

        Raises:
            OSError: the disk, or the encoder, does not take it.
        """
        beside = self.path.with_name(f".{self.path.stem}.{os.getpid()}{self.path.suffix}")
        try:
            if self._gif:
                self._save_gif(beside)
            else:
                self._save_mp4(beside)
            os.replace(beside, self.path)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()

    def _packed(self, frame: Array) -> Any:
        """As it is kept: an image of 256 colours for a GIF, of all for an MP4."""
        from PIL import Image

        image = Image.fromarray(frame)
        if max(image.size) > WIDEST:
            image.thumbnail((WIDEST, WIDEST))
        return image.quantize(256, dither=Image.Dither.NONE) if self._gif else image

    def _save_gif(self, path: Path) -> None:
        # Hundredths that add up to the true time.
        ends = np.rint(np.arange(1, len(self._frames) + 1) * 100 / self._rate)
        first, *rest = self._frames
        first.save(
            path,
            save_all=True,
            append_images=rest,
            duration=(10 * np.diff(ends, prepend=0)).astype(int).tolist(),
            loop=0,
        )

    def _save_mp4(self, path: Path) -> None:
        encoder: Any = importlib.import_module("imageio_ffmpeg")
        width, height = (side - side % 2 for side in self._frames[0].size)  # H.264 wants even ones
        writer = encoder.write_frames(
            path, (width, height), fps=self._rate, macro_block_size=2, ffmpeg_log_level="error"
        )
        try:
            writer.send(None)
            for frame in self._frames:
                writer.send(frame.crop((0, 0, width, height)).tobytes())
        finally:
            writer.close()


def frames_of(path: Path) -> Iterator[tuple[Array, int]]:
    """The frames [H, W, 3] uint8 of a GIF, each with how many milliseconds it is shown."""
    from PIL import Image

    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            yield np.asarray(image.convert("RGB")), int(image.info.get("duration", 0))
