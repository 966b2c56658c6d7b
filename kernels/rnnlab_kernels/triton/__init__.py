"""Triton generated from a Program."""
