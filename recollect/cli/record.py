"""`recollect record`: an episode as a video, or as a picture of what the agent saw and did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recollect import evaluation, recording
from recollect.cli import words
from recollect.cli.words import Option
from recollect.run.folder import RunFolder

OPTIONS = [
    Option("--episodes", "N", "episodes to play", words.whole, 1),
    Option("--seed", "N", "of the episodes' starts, as in evaluate", words.whole, 1),
    Option("--which", "NAME", "last or best parameters", default="last"),
    Option("--epsilon", "X", "share of random actions; 0: greedy", words.number, 0.0),
    Option("--out", "PATH", "a .gif, .mp4 or .png, or a folder for them", shown="RUN/videos"),
    Option("--picture", "", "write the picture beside the video as well"),
    words.HELP,
]


def command(given: Sequence[str]) -> None:
    """Record as the words after `record` say, and print what was written.

    Raises:
        ConfigError: something is wrong with them, or with the run.
        EnvError: the environment failed.
    """
    if words.wants_help(given):
        words.show_page(
            "record RUN [OPTION ...]",
            "Plays episodes with a trained agent and writes each into a video: an MP4 if "
            "imageio-ffmpeg is installed, else a GIF, of at most "
            f"{recording.LONGEST_VIDEO:,} steps. What cannot be rendered becomes a picture: "
            "observations, action values, actions, rewards and memory, step by step.",
            {"what": [Option("RUN", "", "a run's folder"), *OPTIONS]},
        )
        return
    found = words.parse(
        "record", given, OPTIONS, positional="RUN", required="record needs a run: give its folder"
    )
    run, which = found.pop("RUN"), found.pop("which")
    out = Path(found.pop("out")) if "out" in found else RunFolder.open(run).videos
    recording.check(out, found["episodes"], found["seed"], found["epsilon"])
    agent = evaluation.load(run, which)
    print(f"run         {run}")
    print(f"parameters  {agent.which}, after {agent.env_steps:,} steps")
    for episode in recording.record(
        agent, out, tell=lambda line: print(f"note        {line}"), **found
    ):
        print(
            f"episode {episode.number:<3} return {episode.episode_return:,.6g} in "
            f"{episode.steps:,} steps, {episode.ended}"
        )
        for file in episode.files:
            print(f"            {file}")
