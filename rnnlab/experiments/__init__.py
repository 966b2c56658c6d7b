"""Sweeps, launchers and reports."""
