"""The endless training stream: its order, its place, its sources."""
