"""Which captions a training is fed with: metadata, matching, balancing, filters."""
