"""LightningModules, one a shape of task."""

from rnnlab.tasks.base import Task
from rnnlab.tasks.text_classification import TextClassification

__all__ = ["Task", "TextClassification"]
