"""Checkpoints of a run folder."""
