"""Training: from a name and an environment to a run folder with an agent that has learned."""

from __future__ import annotations

from recollect.training.execution import FINAL_EPISODES, Run, execute, resume, train
from recollect.training.job import MAY_CHANGE, Job, prepare

__all__ = ["FINAL_EPISODES", "MAY_CHANGE", "Job", "Run", "execute", "prepare", "resume", "train"]
