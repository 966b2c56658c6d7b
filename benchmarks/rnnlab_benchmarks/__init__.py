"""Benchmark cases declared as data, and one runner."""
