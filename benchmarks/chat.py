"""Chat: time to the first token over a conversation, and speed against transformers' own loop.

    python benchmarks/chat.py [--rounds 5] [--turns 20] [--tokens 256] [--threads 1]

The model is a LLaMA with random weights, 4 layers, 256 wide, that never ends an answer by itself;
it runs on the CPU, in one process. Times are CPU time: with one thread they are those of a clock
on a machine that does nothing else.

First token: a conversation of `--turns` turns; on the clock is making the prompt's ids and
reading it up to the first token, with the memory that `alpaca chat` keeps across turns and without
it. The best of `--rounds` conversations counts for each turn. What no memory saves is attention to
all that was said, which in a model this small weighs far more than in one of use.

Speed: the same greedy answer to the same prompt by `alpaca_cli.model.sampling.stream` and by
`generate` with transformers' `TextIteratorStreamer` (its thread, as its documentation shows) and
`TextStreamer`. Rounds alternate, the best counts.

Ends in 1 when a goal is missed: with memory the last turns read no more tokens than the first
ones, and their first token comes at least five times as soon as without; our loop is not slower
than the faster of the two others, and gives the same tokens.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, TextIteratorStreamer, TextStreamer

from alpaca_cli.core.template import ALPACA
from alpaca_cli.model.dialogue import Exchange, Sampling
from alpaca_cli.model.loading import Student, load_student
from alpaca_cli.model.reading import Memory
from alpaca_cli.model.sampling import prompt_ids, stream
from alpaca_cli.model.tokenizer import decode_response, train_tokenizer

SOONER = 5  # times as soon as without memory, in the last turns
SPREAD = 4  # tokens that late turns may read more than early ones: messages are numbered
AS_FAST = 0.98  # of generate's tokens/s: what two runs of the same differ by
FEW = 3  # turns at each end of a conversation that are compared
MESSAGE = "Tell me something about the {} animal that lives in the sea, and what it eats there."
ANSWER_TOKENS = 64
WORD = re.compile("Ġ[A-Za-z]+")
TEXTS = [
    MESSAGE.format("largest"),
    "The whale, the shark and the octopus live in the sea. They eat fish, and other small ones.",
    "Below is a list of numbers: 4 1 9 7 5 3. Sorted, they are 1 3 4 5 7 9, as everyone can see.",
]


def make_student(folder: Path) -> Student:
    """The random model, saved and loaded as any other."""
    tokenizer = train_tokenizer(TEXTS, ALPACA, 2048)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=1 << 16,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # It says whole words only: what else it could say, EOS among it, has a score of 0, which
        # is never the highest of so many. Random bytes would be other tokens when they are read
        # again; what a trained model says is not.
        words = [id for token, id in tokenizer.get_vocab().items() if WORD.fullmatch(token)]
        others = sorted(set(range(config.vocab_size)) - set(words))
        model.lm_head.weight[others] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ALPACA.save(folder)
    return load_student(folder, "random")


class First(NamedTuple):
    """The first token of a turn: milliseconds, and tokens that had to be read for it."""

    ms: float
    read: int


def first_tokens(student: Student, turns: int, memory: Memory | None) -> list[First]:
    """The first token of each turn of a conversation; without a memory all is read anew."""
    history: list[Exchange] = []
    found = []
    for turn in range(turns):
        message = MESSAGE.format(f"{turn + 1}th largest")
        remembered = memory or Memory()
        started = time.process_time()
        ids = prompt_ids(student, message, history=history)
        kept = remembered.rewind(ids)
        pieces = stream(student, ids, Sampling(max_new_tokens=ANSWER_TOKENS), memory=remembered)
        text = next(pieces).text
        found.append(First(1e3 * (time.process_time() - started), len(ids) - kept))
        text += "".join(piece.text for piece in pieces)
        history.append(Exchange(message, "", text.strip()))
    return found


def best(rounds: int, measure: Callable[[], list[First]]) -> list[First]:
    """The quickest at each place."""
    return [min(turn) for turn in zip(*(measure() for _ in range(rounds)), strict=True)]


def show_first_tokens(student: Student, turns: int, rounds: int) -> bool:
    """Print the table; whether late turns read no more than early ones, and come much sooner."""
    anew = best(rounds, lambda: first_tokens(student, turns, None))
    kept = best(rounds, lambda: first_tokens(student, turns, Memory()))
    print(f"{'':6}{'all read anew':>26}{'memory kept':>26}")
    print(f"{'turn':<6}" + f"{'tokens':>13}{'ms':>13}" * 2)
    for turn, (without, with_it) in enumerate(zip(anew, kept, strict=True), 1):
        figures = f"{without.read:>13,}{without.ms:>13.1f}{with_it.read:>13,}{with_it.ms:>13.1f}"
        print(f"{turn:<6}{figures}")
    # The first turn has nothing to remember.
    early, late = kept[1 : 1 + FEW], kept[-FEW:]
    sooner = fmean(turn.ms for turn in anew[-FEW:]) / fmean(turn.ms for turn in late)
    growth = fmean(turn.ms for turn in late) / fmean(turn.ms for turn in early)
    print(
        f"the last {FEW} turns: {sooner:.1f} times as soon with memory (goal: {SOONER}); "
        f"{growth:.1f} times the time of turns 2 to {FEW + 1}, for attention looks at all that "
        "is remembered"
    )
    spread = max(turn.read for turn in late) - max(turn.read for turn in early)
    return sooner >= SOONER and spread <= SPREAD


def ours(student: Student, ids: list[int], tokens: int) -> str:
    pieces = stream(student, ids, Sampling(max_new_tokens=tokens))
    return "".join(piece.text for piece in pieces)


def with_text_streamer(student: Student, ids: list[int], tokens: int) -> str:
    written = io.StringIO()
    with redirect_stdout(written):
        streamer = TextStreamer(student.tokenizer, skip_prompt=True, skip_special_tokens=True)
        _generate(student, ids, tokens, streamer)
    return written.getvalue().removesuffix("\n")


def with_iterator(student: Student, ids: list[int], tokens: int) -> str:
    streamer = TextIteratorStreamer(student.tokenizer, skip_prompt=True, skip_special_tokens=True)
    thread = threading.Thread(target=_generate, args=(student, ids, tokens, streamer))
    thread.start()
    text = "".join(streamer)
    thread.join()
    return text


def _generate(
    student: Student, ids: list[int], tokens: int, streamer: TextStreamer | None
) -> list[list[int]]:
    prompt = torch.tensor([ids], device=student.device)
    output: list[list[int]] = student.model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=tokens,
        do_sample=False,
        streamer=streamer,
    ).tolist()
    return output


def show_speed(student: Student, tokens: int, rounds: int) -> bool:
    """Print the table; whether our loop is as fast as transformers', and says the same."""
    ids = prompt_ids(student, " ".join(TEXTS))
    ways = {
        "alpaca chat": ours,
        "generate, TextIteratorStreamer": with_iterator,
        "generate, TextStreamer": with_text_streamer,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    said = ""
    for turn in range(-1, rounds):  # the first round warms up
        for name, way in ways.items():
            started = time.process_time()
            text = way(student, ids, tokens)
            if way is ours:
                said = text
            if turn >= 0:
                seconds[name].append(time.process_time() - started)
    print(f"\n{f'{tokens} greedy tokens after {len(ids)}':34}{'tokens/s':>12}{'of ours':>10}")
    speed = {name: tokens / min(found) for name, found in seconds.items()}
    for name, found in speed.items():
        print(f"{name:34}{found:>12.1f}{found / speed['alpaca chat']:>10.2f}")
    # What transformers' streamers print is not compared: they lose spaces after a new line.
    [output] = _generate(student, ids, tokens, None)
    same = decode_response(student.tokenizer, output[len(ids) :]) == said
    print("the same tokens by both" if same else "the answers differ")
    fastest = max(found for name, found in speed.items() if name != "alpaca chat")
    return same and speed["alpaca chat"] >= AS_FAST * fastest


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        student = make_student(Path(folder))
        soon = show_first_tokens(student, flags.turns, flags.rounds)
        fast = show_speed(student, flags.tokens, flags.rounds)
    for reached, goal in ((soon, "the first token"), (fast, "the speed of generate")):
        if not reached:
            print(f"goal missed: {goal}")
    return 0 if soon and fast else 1


if __name__ == "__main__":
    sys.exit(main())
