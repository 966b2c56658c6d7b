"""Probes of a network's inside: how far gradients reach, how full its gates are, how fast errors grow."""

from rnnlab.probes.findings import Findings, LayerFindings, merge, probe

__all__ = ["Findings", "LayerFindings", "merge", "probe"]
