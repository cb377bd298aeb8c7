"""What `mmtrain evaluate` and `mmtrain compare` measure, one file each."""
