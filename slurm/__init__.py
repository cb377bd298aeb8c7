"""Batch scripts: what `mmtrain submit` sends, and examples to read. Imports no torch."""
