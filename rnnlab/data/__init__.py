"""LightningDataModules, vocabulary, batching and the bundled data."""
