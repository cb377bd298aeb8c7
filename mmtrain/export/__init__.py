"""`mmtrain export`: a model for other programs, without any pickle in it."""
