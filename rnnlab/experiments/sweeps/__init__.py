"""Sweeps: many runs of one experiment, each known by its content, started again without loss.

`folder` is what a sweep leaves on disk and how it is read; `plan` what is to be run; `search` how that is
found; `job` one run of a sweep; `launchers` where it runs; `control` the loop over all of them.
"""
