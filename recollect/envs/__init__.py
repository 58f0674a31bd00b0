"""Environments: made by id, stepped as a vector, and some small ones that need memory."""
