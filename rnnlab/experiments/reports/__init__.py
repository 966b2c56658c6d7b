"""What came of a sweep, and how runs differ: as tables, as files, and as a page."""
