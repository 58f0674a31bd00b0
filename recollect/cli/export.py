"""`recollect export`: the weights of a trained agent in one file that needs no recollect."""

from __future__ import annotations

from collections.abc import Sequence

from recollect import evaluation
from recollect.cli import words
from recollect.cli.words import Option
from recollect.types import ConfigError

OPTIONS = [Option("--which", "NAME", "last or best parameters", default="last"), words.HELP]
WANTED = "export needs a run's folder and the file to write, such as agent.safetensors"


def command(given: Sequence[str]) -> None:
    """Export as the words after `export` say, and print what was written.

    Raises:
        ConfigError: something is wrong with them, or with the run.
    """
    if words.wants_help(given):
        words.show_page(
            "export RUN FILE.safetensors [OPTION ...]",
            "Writes a trained agent's weights into one safetensors file that says itself what "
            "network they are of. It loads with torch alone: docs/export.md shows how.",
            {
                "what": [
                    Option("RUN", "", "a run's folder"),
                    Option("FILE", "", "a new file that ends in .safetensors"),
                    *OPTIONS,
                ]
            },
        )
        return
    found = words.parse("export", given, OPTIONS, positional="WORDS", many=True, required=WANTED)
    if len(found["WORDS"]) != 2:
        raise ConfigError(f"{WANTED}, got {' '.join(found['WORDS'])!r}")
    run, file = found["WORDS"]
    agent = evaluation.load(run, found["which"])
    path = agent.export(file)
    numbers = sum(p.numel() for p in agent.policy.network.parameters())
    print(f"run         {run}")
    print(f"parameters  {agent.which}, after {agent.env_steps:,} steps: {numbers:,} numbers")
    print(f"file        {path}, {path.stat().st_size:,} bytes")
