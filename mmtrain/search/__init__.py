"""An index over the images of SHARDS, and search in it by text in any language or by an image."""
