"""The commands `sample` and `score`: what a model writes, and what a language model thinks of texts."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rnnlab.experiments.commands import is_setting, make_parser, read_lines, split_settings
from rnnlab.experiments.music_commands import MUSIC_ONLY, TEXT_ONLY, check_settings, sample_music

SAMPLE = """\
Write text with a language model, as it comes, or music with a model of piano rolls, as a MIDI file.

settings:
  checkpoint=PATH     a checkpoint, or the folder of a run (its best checkpoint); required
  prompt=TEXT         how the text begins; it may also be given as words; for music FILE:SPLIT:NUMBER
  label=NAME          what to write of, for a model that was trained on labels
  temperature=1.0     below 1 is more careful, above 1 more daring
  top_k=40            choose among the k most probable tokens
  top_p=0.9           choose among the most probable tokens that together reach p
  greedy=true         always take the most probable token
  length=200          most tokens
  stop=true           stop at the end of the line (the model's <eos>); false goes on to the length
  samples=1           how many texts
  seed=1              the same text again; without it another one each time
  device=cpu          cpu | cuda | cuda:1 | mps
of music alone (label, top_k, top_p, greedy and stop are of text alone):
  output=sample.mid   the MIDI file; a picture of its piano roll is written beside it
  prompt_frames=32    frames of the prompt that are given to the model
  most_keys=4         at most so many keys at a time
  bpm=100             beats a minute

examples:
  rnnlab sample checkpoint=runs/char_lm/20250101-120000-x1y2 "In the beginning" temperature=0.7
  rnnlab sample checkpoint=best.ckpt stop=false length=1000 top_p=0.9 seed=1
  rnnlab sample checkpoint=runs/verses/20250101-120000-x1y2 label=Psalms samples=3
  rnnlab sample checkpoint=runs/jsb/20250101-120000-x1y2 output=chorale.mid most_keys=4 temperature=0.8 seed=1
"""

SCORE = """\
Say how probable a language model finds texts: each token given those before it, and the whole.

settings:
  checkpoint=PATH     a checkpoint, or the folder of a run (its best checkpoint); required
  file=PATH           one text a line; `-` reads standard input
  label=NAME          what the texts were written of, for a model that was trained on labels
  end=true            count the end of the text (the model's <eos>) as its last token
  json=true           print JSON lines instead of tables
  device=cpu          cpu | cuda | cuda:1 | mps

examples:
  rnnlab score checkpoint=runs/char_lm/20250101-120000-x1y2 "And God said, Let there be light"
  rnnlab score checkpoint=best.ckpt file=candidates.txt json=true
"""


def sample(argv: list[str]) -> int:
    """`rnnlab sample`."""
    names = ("checkpoint", "prompt", "label", "temperature", "top_k", "top_p", "greedy", "length", "stop")

    words, own = _words_and_settings(
        "sample", SAMPLE, argv, (*names, "samples", "seed", "device", *MUSIC_ONLY)
    )
    if words and "prompt" in own:
        raise ValueError(f"the prompt is given twice: prompt={own['prompt']!r} and {' '.join(words)!r}")
    prompt = own.get("prompt", " ".join(words))
    greedy = _flag(own, "greedy", False)
    numbers: dict[str, Any] = {
        "temperature": _number(own, "temperature", float, 1.0),
        "top_k": _number(own, "top_k", int, None),
        "top_p": _number(own, "top_p", float, None),
    }
    length, count = _number(own, "length", int, 200), _number(own, "samples", int, 1)
    seed, stop = _number(own, "seed", int, None), _flag(own, "stop", True)
    of_music: dict[str, Any] = {
        "output": own.get("output", "sample.mid"),
        "prompt_frames": _number(own, "prompt_frames", int, 32),
        "most_keys": _number(own, "most_keys", int, None),
        "bpm": _number(own, "bpm", float, 100.0),
    }
    if length < 1 or count < 1:
        raise ValueError(f"length={length}, samples={count}: expected at least 1")

    from rnnlab.nn.generation import Sampling
    from rnnlab.tasks.music import Music

    sampling = Sampling(greedy=greedy, **numbers)  # refuses before the checkpoint is read
    task = _open(own)
    if isinstance(task, Music):
        check_settings(own, TEXT_ONLY, "music")
        sample_music(
            task,
            prompt=prompt,
            length=length,
            count=count,
            temperature=numbers["temperature"],
            seed=seed,
            **of_music,
        )
        return 0
    _require_text(task, own, "writes neither text nor music; a Music model does, or")
    check_settings(own, MUSIC_ONLY, "text")
    sampling = replace(sampling, forbidden=tuple(range(task.eos)))
    _tell_unknown(task, prompt)
    for number in range(count):
        pieces = task.sample(
            prompt,
            label=own.get("label"),
            length=length,
            sampling=sampling,
            stop=stop,
            seed=None if seed is None else seed + number,
        )
        # A fault of the settings shows at the first piece, before anything is printed.
        first = next(pieces, "")
        sys.stdout.write(prompt + first)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    return 0


def score(argv: list[str]) -> int:
    """`rnnlab score`."""
    names = ("checkpoint", "file", "label", "end", "json", "device")
    words, own = _words_and_settings("score", SCORE, argv, names)
    end, as_json = _flag(own, "end", True), _flag(own, "json", False)
    texts = words + (read_lines(own["file"]) if "file" in own else [])
    if not texts:
        raise ValueError('nothing to score: give texts as words ("a sentence") or as file=PATH')
    task = _open(own)
    _require_text(task, own, "gives no probabilities of texts;")
    for text in texts:
        scores = task.score(text, label=own.get("label"), end=end)
        whole = task.describe_scores(scores)
        tokens = [
            {"token": item.token, "known": item.known, "log_probability": item.log_probability}
            for item in scores
        ]
        if as_json:
            print(json.dumps({"text": text, **whole, "each": tokens}, ensure_ascii=False))
        else:
            _print_scores(text, tokens, whole)
    return 0


def _print_scores(text: str, tokens: list[dict[str, Any]], whole: Mapping[str, float]) -> None:
    import math

    from rich.table import Table
    from rich.text import Text

    from rnnlab.training.console import make_console

    console = make_console()
    console.print(Text(text, style="bold"), soft_wrap=True)  # a title would fold at the table's width
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("token")
    table.add_column("log-probability", justify="right")
    table.add_column("probability", justify="right")
    for item in tokens:
        shown = Text(_visible(item["token"]) + ("" if item["known"] else "  (unknown, read as <unk>)"))
        value = item["log_probability"]
        table.add_row(shown, f"{value:.4f}", f"{math.exp(value):.4f}")
    console.print(table)
    measure = next(name for name in whole if name not in ("log_probability", "tokens"))
    console.print(
        f"log-probability {whole['log_probability']:.4f} of {whole['tokens']} tokens, "
        f"{measure.replace('_', ' ')} {whole[measure]:.4f}\n",
        soft_wrap=True,
    )


def _visible(token: str) -> str:
    """A token as it can be seen: a space as `' '`, control characters escaped."""
    return repr(token) if token.isspace() or not token.isprintable() else token


def _words_and_settings(
    command: str, text: str, argv: list[str], names: tuple[str, ...]
) -> tuple[list[str], dict[str, str]]:
    parser: argparse.ArgumentParser = make_parser(command, text)
    parser.add_argument("inputs", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(argv)
    words = [word for word in options.inputs if not is_setting(word)]
    own, _ = split_settings([word for word in options.inputs if is_setting(word)], names, ())
    if "checkpoint" not in own:
        raise ValueError("checkpoint=PATH is required: a checkpoint, or the folder of a run")
    return words, own


def _open(own: Mapping[str, str]) -> Any:
    from rnnlab.training.checkpoint import load_task
    from rnnlab.training.predict import check_device

    device = own.get("device", "cpu")
    check_device(device)
    return load_task(own["checkpoint"], device)


def _require_text(task: Any, own: Mapping[str, str], lacking: str) -> None:
    from rnnlab.tasks.text_generation import TextGeneration

    if not isinstance(task, TextGeneration):
        raise ValueError(
            f"checkpoint={own['checkpoint']}: a {type(task).__name__} {lacking} a LanguageModel or a "
            "ConditionalGeneration does (`rnnlab experiments` lists what can be trained)"
        )


def _tell_unknown(task: Any, prompt: str) -> None:
    unknown = [token for token in task.tokens(prompt) if token not in task.vocabulary]
    if unknown:
        shown = ", ".join(map(repr, dict.fromkeys(unknown[:8])))
        print(f"rnnlab: the model does not know {shown} and reads <unk>", file=sys.stderr)


def _number(own: Mapping[str, str], key: str, kind: Callable[[str], Any], default: Any) -> Any:
    if key not in own:
        return default
    try:
        return kind(own[key])
    except ValueError:
        wanted = "an int" if kind is int else "a number"
        raise ValueError(f"{key}={own[key]}: expected {wanted}") from None


def _flag(own: Mapping[str, str], key: str, default: bool) -> bool:
    value = own.get(key, str(default).lower())
    if value not in ("true", "false"):
        raise ValueError(f"{key}={value}: expected true or false")
    return value == "true"
