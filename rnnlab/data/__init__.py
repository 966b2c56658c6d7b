"""LightningDataModules, vocabulary, batching and the bundled data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnlab.data.base import DataModule
    from rnnlab.data.batching import LengthBucketSampler, SequenceBatch, SequenceLoader, TokenSequences
    from rnnlab.data.conditional import ConditionalTextData
    from rnnlab.data.forecasting import ForecastingData
    from rnnlab.data.language import LanguageData
    from rnnlab.data.memory import MemoryData
    from rnnlab.data.music import MusicData
    from rnnlab.data.pairs import PairData
    from rnnlab.data.series import SeriesData
    from rnnlab.data.speech import SpeechData
    from rnnlab.data.tagging import TaggingData
    from rnnlab.data.text_classification import TextClassificationData
    from rnnlab.data.video import VideoData
    from rnnlab.data.vocabulary import Vocabulary

__all__ = [
    "ConditionalTextData",
    "DataModule",
    "ForecastingData",
    "LanguageData",
    "LengthBucketSampler",
    "MemoryData",
    "MusicData",
    "PairData",
    "SequenceBatch",
    "SequenceLoader",
    "SeriesData",
    "SpeechData",
    "TaggingData",
    "TextClassificationData",
    "TokenSequences",
    "VideoData",
    "Vocabulary",
]

_HOME = {
    "ConditionalTextData": "conditional",
    "DataModule": "base",
    "ForecastingData": "forecasting",
    "LanguageData": "language",
    "LengthBucketSampler": "batching",
    "MemoryData": "memory",
    "MusicData": "music",
    "PairData": "pairs",
    "SequenceBatch": "batching",
    "SequenceLoader": "batching",
    "SeriesData": "series",
    "SpeechData": "speech",
    "TaggingData": "tagging",
    "TextClassificationData": "text_classification",
    "TokenSequences": "batching",
    "VideoData": "video",
    "Vocabulary": "vocabulary",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that a vocabulary needs neither torch nor lightning."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
