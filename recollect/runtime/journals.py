"""Where shards write down what happens to them, and from which page on it is needed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any


class Journals:
    """The journals of a runtime's shards.

    Each snapshot of the run begins a new page of each. A checkpoint says which page its state goes
    on with, and by a mark whether these pages are of this runtime at all.

    Args:
        folder: where they lie; below each host's temporary one if it is not absolute; empty: none
            are kept.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._mark = secrets.token_hex(8)
        self._pages: dict[str, int] = {}  # of the last snapshot
        self._needed: dict[str, int] = {}  # of the last that is on disk

    def of(self, name: str) -> str:
        """The folder of a shard's."""
        return f"{self.folder}/{name.replace('/', '-')}"

    def needed(self, name: str) -> int:
        """The oldest page of a shard's that may still be needed."""
        return self._needed.get(name, 0)

    def turned(self, name: str, page: int) -> None:
        """The snapshot that is being taken goes on with this page."""
        self._pages[name] = page

    def saved(self) -> None:
        """The last snapshot is on disk."""
        self._needed = dict(self._pages)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says of them."""
        return {"mark": self._mark, "pages": dict(self._pages)}

    def page_of(self, state: Mapping[str, Any] | None, name: str) -> int:
        """The page that goes on from a checkpoint's state; None: from nothing."""
        own = (state or {}).get("journal") or {}
        ours = own.get("mark") == self._mark
        return int(own["pages"].get(name, 0)) if ours else 0  # begun when that one was loaded
