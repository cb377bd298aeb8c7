"""SHARDS through a model, once."""
