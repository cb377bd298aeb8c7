"""One engine each, used by every loss: tiles, pairs, captions, gathering, checks, the gradient cache."""
