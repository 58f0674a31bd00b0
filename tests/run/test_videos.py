from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recollect.run import videos
from recollect.run.videos import Video, frames_of
from recollect.types import ConfigError


def frame(number: int, height: int = 20, width: int = 30) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2] = (number % 256, 255 - number % 256, 7)
    return picture


@pytest.mark.parametrize(("rate", "kept"), [(20, 1), (30, 1), (50, 1), (60, 2), (120, 3)])
def test_a_gif_shows_what_was_added_for_as_long(tmp_path: Path, rate: int, kept: int) -> None:
    video = Video(tmp_path / "a.gif", rate)
    for number in range(rate * 2):
        video.add(frame(number))
    assert list(tmp_path.iterdir()) == []
    video.save()
    assert list(tmp_path.iterdir()) == [video.path]
    found = list(frames_of(video.path))
    shown = range(0, rate * 2, kept)
    assert len(found) == len(shown)
    for (picture, milliseconds), number in zip(found, shown, strict=True):
        np.testing.assert_array_equal(picture, frame(number))
        assert milliseconds >= 20
    assert sum(milliseconds for _, milliseconds in found) == pytest.approx(2000, abs=20)


def test_large_frames_are_made_smaller(tmp_path: Path) -> None:
    video = Video(tmp_path / "a.gif", 10)
    video.add(frame(3, 900, 1920))
    video.save()
    ((picture, _),) = frames_of(video.path)
    assert picture.shape == (300, 640, 3)


def test_what_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "default_suffix", lambda: ".gif")
    with pytest.raises(ConfigError, match=r"a.mp4: an MP4 needs imageio-ffmpeg: install it"):
        Video(tmp_path / "a.mp4", 10)
    with pytest.raises(ConfigError, match=r"a video is a .gif or a .mp4, got .*a.avi"):
        Video(tmp_path / "a.avi", 10)


def test_a_save_that_fails_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gif").write_text("the old one")
    video = Video(tmp_path / "a.gif", 10)
    video.add(frame(0))

    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video, "_save_gif", full)
    with pytest.raises(OSError, match="No space"):
        video.save()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old one"]


def test_an_mp4_is_written_by_imageio_ffmpeg_if_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a stand-in: even sizes, every frame, closed."""
    seen: dict[str, Any] = {"frames": []}

    class Encoder:
        @staticmethod
        def write_frames(path: Path, size: tuple[int, int], **rest: Any) -> Any:
            seen.update(rest, size=size)
            path.write_text("a film")
            try:
                while True:
                    seen["frames"].append((yield))
            finally:
                seen["closed"] = True

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", Encoder)
    monkeypatch.setattr(videos, "default_suffix", lambda: ".mp4")
    video = Video(tmp_path / "a.mp4", 60)
    for number in range(5):
        video.add(frame(number, 21, 31))
    video.save()
    assert (seen["size"], seen["fps"], seen["closed"]) == ((30, 20), 60, True)
    assert [len(data) for data in seen["frames"]] == [30 * 20 * 3] * 5
    first = np.frombuffer(seen["frames"][1], np.uint8).reshape(20, 30, 3)
    np.testing.assert_array_equal(first, frame(1, 21, 31)[:20, :30])
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
