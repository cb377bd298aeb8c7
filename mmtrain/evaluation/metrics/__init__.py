"""Figures from ranks and predictions."""
