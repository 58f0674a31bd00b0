"""recollect: agents that learn from replayed experience gathered by many actors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recollect.evaluation import LoadedAgent, evaluate, load
    from recollect.scores.normalised import human_normalised
    from recollect.training import Job, Run, prepare, resume, train
    from recollect.types import ConfigError

__version__ = "0.1.0"
__all__ = [
    "ConfigError", "Job", "LoadedAgent", "Run", "evaluate", "human_normalised", "load", "prepare",
    "resume", "train",
]  # fmt: skip

_HOMES = {
    **dict.fromkeys(("Job", "Run", "prepare", "resume", "train"), "recollect.training"),
    **dict.fromkeys(("LoadedAgent", "evaluate", "load"), "recollect.evaluation"),
    "ConfigError": "recollect.types",
    "human_normalised": "recollect.scores.normalised",
}


def __getattr__(name: str) -> Any:
    """What the library offers, imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'recollect' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
