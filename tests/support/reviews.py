"""Reviews that a small model can learn."""

from pathlib import Path

GOOD = ("fine", "warm", "funny", "lovely", "clever", "moving")
BAD = ("dull", "flat", "tired", "silly", "empty", "cold")


def write_reviews(file: Path, each: int) -> Path:
    """A table of texts and labels, so many good and as many bad."""
    lines = ["text\tlabel"]
    for index in range(each):
        first, second = index % 6, (index // 6) % 6
        lines.append(f"a {GOOD[first]} and {GOOD[second]} film number {index}\tgood")
        lines.append(f"a {BAD[first]} and {BAD[second]} film number {index}\tbad")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
