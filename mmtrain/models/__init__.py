"""What MODEL means, and what it is."""
