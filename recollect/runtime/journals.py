"""Where shards write down what happens to them, and from which page on it is needed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

PAGES = 1 << 20
"""Pages that a shard may fill before its journal begins anew."""


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
        self._snapshots = 0
        # How often each began anew because its pages could not be used; and with which page then,
        # on top of which snapshot (None: of none of this runtime's).
        self._begun: dict[str, int] = {}
        self._anew: dict[str, tuple[int | None, int]] = {}
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
        """What a checkpoint says of them; another one at each call."""
        self._snapshots += 1
        return {"mark": self._mark, "snapshot": self._snapshots, "pages": dict(self._pages)}

    def page_of(self, state: Mapping[str, Any] | None, name: str) -> int:
        """The page that goes on from a checkpoint's state; a page that is not there, if none does.

        Args:
            state: None: from nothing.
            name: of the shard.
        """
        snapshot, page = self._read(state, name)
        begun = self._begun.get(name, 0)
        if page // PAGES == begun:
            return page
        of, first = self._anew[name]
        return first if of == snapshot else begun * PAGES + PAGES - 1

    def anew(self, name: str) -> int:
        """The page to begin with where none can be used: never used before.

        A snapshot that is being saved may name the ones that follow those of before.
        """
        return (self._begun.get(name, 0) + 1) * PAGES

    def snapshot_of(self, state: Mapping[str, Any] | None) -> int | None:
        """Which snapshot a state is; None, if of none of this runtime's."""
        return self._read(state, "")[0]

    def begin_anew(self, state: Mapping[str, Any] | None, name: str) -> None:
        """That page was begun, and goes on from this state and no other."""
        self._anew[name] = self._read(state, name)[0], self.anew(name)
        self._begun[name] = self._begun.get(name, 0) + 1

    def _read(self, state: Mapping[str, Any] | None, name: str) -> tuple[int | None, int]:
        """Which snapshot a state is, and its page; of another runtime: the first, begun with it."""
        own = (state or {}).get("journal") or {}
        if own.get("mark") != self._mark:
            return None, 0
        return int(own["snapshot"]), int(own["pages"].get(name, 0))
