"""What `mmtrain fit` runs."""
