"""metrics.json, the report and the tables."""
