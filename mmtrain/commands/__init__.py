"""One file a command of `mmtrain`."""
