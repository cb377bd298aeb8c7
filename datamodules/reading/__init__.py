"""Splits, data sets, loaders and labels: samples to batches."""
