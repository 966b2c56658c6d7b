"""LightningModules, one a shape of task."""

from rnnlab.tasks.base import Task
from rnnlab.tasks.conditional_generation import ConditionalGeneration
from rnnlab.tasks.forecasting import Forecasting
from rnnlab.tasks.language_model import LanguageModel
from rnnlab.tasks.memory import Memory
from rnnlab.tasks.music import Music
from rnnlab.tasks.series_classification import SeriesClassification
from rnnlab.tasks.speech_classification import SpeechClassification
from rnnlab.tasks.speech_recognition import SpeechRecognition
from rnnlab.tasks.tagging import Restoration, SpanTagging, Tagging
from rnnlab.tasks.text_classification import TextClassification
from rnnlab.tasks.translation import Translation
from rnnlab.tasks.video_classification import VideoClassification

__all__ = [
    "ConditionalGeneration",
    "Forecasting",
    "LanguageModel",
    "Memory",
    "Music",
    "Restoration",
    "SeriesClassification",
    "SpanTagging",
    "SpeechClassification",
    "SpeechRecognition",
    "Tagging",
    "Task",
    "TextClassification",
    "Translation",
    "VideoClassification",
]
