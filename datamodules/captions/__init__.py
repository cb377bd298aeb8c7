"""Which captions of a sample are drawn, and how they are rewritten."""
