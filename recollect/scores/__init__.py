"""Scores of games beside those of a random agent and a human: `normalised.human_normalised`."""
