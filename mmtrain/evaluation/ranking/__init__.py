"""The exact ranks."""
