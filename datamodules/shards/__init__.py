"""Shards: what names them, what is in them, how they are read and written."""
