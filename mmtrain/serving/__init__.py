"""An HTTP server over a model, and over an index where one is searched."""
