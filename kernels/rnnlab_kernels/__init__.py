"""Kernels generated from Programs, one folder a kind of device."""
