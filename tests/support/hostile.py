"""What a stranger's files may not do to the world around a command, and files that try."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# What a refusal may need beside the libraries that are loaded already.
REFUSAL_BYTES = 400 * 2**20

MODEL = {"_target_": "rnnlab.DeepRNN", "_partial_": True, "cell": "gru", "hidden_size": 4}
OPTIMIZER = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
TASK = {
    "_target_": "rnnlab.tasks.TextClassification",
    "model": MODEL,
    "optimizer": OPTIMIZER,
    "scheduler": None,
    "embedding_size": 3,
}
FACTS = {
    "vocabulary": ["<pad>", "<unk>", "good", "bad"],
    "labels": ["no", "yes"],
    "tokenizer": "word",
    "lowercase": True,
    "max_length": 16,
}


@dataclass
class Outcome:
    """What became of a command."""

    status: int
    out: str
    err: str
    violations: list[str]
    grown_bytes: int


@dataclass
class World:
    """A folder that a stranger has filled, the rest of the disk, and a file that no command may make."""

    folder: Path
    outside: Path
    canary: Path
    run: Callable[..., Outcome]

    def refuses(self, *words: str, told: str = "") -> Outcome:
        """The command is refused by a line or a short list, and nothing has happened."""
        outcome = self.run(*words)
        assert outcome.status == 2, outcome
        self.unharmed(outcome)
        assert outcome.err.startswith("rnnlab: ") and "Traceback" not in outcome.err
        assert len(outcome.err) < 4000, outcome.err[:400]
        assert told in outcome.err, outcome.err
        assert outcome.grown_bytes < REFUSAL_BYTES
        return outcome

    def unharmed(self, outcome: Outcome) -> None:
        """No code of the stranger's ran, and nothing was written outside."""
        assert not self.canary.exists(), outcome
        assert outcome.violations == []
        assert list(self.outside.iterdir()) == []
