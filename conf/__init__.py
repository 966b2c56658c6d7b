"""Hydra configuration, installed as `rnnlab.conf`."""
