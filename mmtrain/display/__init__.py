"""Messages, tables, pages and thumbnails for people."""
