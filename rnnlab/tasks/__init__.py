"""LightningModules, one a shape of task."""
