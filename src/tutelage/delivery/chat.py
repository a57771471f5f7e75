"""A conversation in the terminal with one model, or with two that answer the same questions side by side."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tutelage.common.errors import TutelageError
from tutelage.common.interrupt import Terminated
from tutelage.common.types import Message
from tutelage.delivery.find_model import FoundModel, longest_answer_of, thinking_of
from tutelage.models.limits import context_of
from tutelage.models.load import load_model
from tutelage.recipe.sections import ModelConfig

ALONE = "The training rows had one question each, so each of yours begins anew; /keep makes it one conversation."
HELP = "/reset forgets the conversation, /system TEXT begins a new one with a system turn, /quit ends."
_CUT = "often so where a question is unlike the training rows; --max-new-tokens sets the limit"
LONGEST = 256  # tokens of an answer, where neither the model's recipe nor its generation config has a limit
SIDE_BY_SIDE = 80  # columns of a terminal from which on two answers stand beside each other
_COLORS = ("cyan", "magenta")


@dataclass(frozen=True)
class ChatSettings:
    """How answers are sampled."""

    temperature: float = 0.0  # 0: the likeliest token each time
    max_new_tokens: int | None = None  # None: each model's own
    seed: int = 0


class Speaker:
    """A loaded model and its side of the conversation."""

    def __init__(
        self, found: FoundModel, settings: ChatSettings, revision: str | None = None, trust_remote_code: bool = False
    ) -> None:
        """Load it, in bfloat16 on a GPU and in float32 on the CPU. `revision`, `trust_remote_code`: as in a recipe's
        model section. Raises TutelageError as `load_model` does."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # the model's own attention: `generate` streams
        config = ModelConfig(
            path=found.path,
            revision=revision,
            attention="padded",
            trust_remote_code=trust_remote_code,
            thinking=thinking_of(found),
        )
        loaded = load_model(config, device, torch.bfloat16 if device == "cuda" else torch.float32)
        self.name, self.model, self.template, self.settings = found.name, loaded.model, loaded.template, settings
        generation = getattr(loaded.model, "generation_config", None)
        self._own_limit = longest_answer_of(found) or getattr(generation, "max_new_tokens", None) or LONGEST
        self.turns: list[Message] = []
        self.cut = 0  # tokens at which the last answer was cut; 0: the model ended it

    @property
    def longest(self) -> int:
        """The most tokens of an answer: of the settings, else of its recipe, its generation config, or LONGEST."""
        return self.settings.max_new_tokens or self._own_limit

    def begin(self, system: str = "") -> None:
        """Forget the conversation, and begin another with this system turn, if any."""
        self.turns = [Message("system", system)] if system else []

    def answer(self, question: str, show: Callable[[str], None] = lambda _: None) -> str:
        """The model's answer, which then belongs to the conversation, as the question does. `show` gets the text so far
        with every token. Turns that do not fit into the model's context are forgotten, the oldest first.

        Raises TutelageError for a question longer than the context, and for turns that the chat template refuses.
        """
        turns = [*self.turns, Message("user", question)]
        context = context_of(self.model.config)
        ids = self._encode(turns)
        while context is not None and len(ids) + self.longest > context:
            first = next(place for place, turn in enumerate(turns) if turn.role == "user")
            if first == len(turns) - 1:
                break
            del turns[first : first + 2]  # a question and its answer
            ids = self._encode(turns)
        room = self.longest if context is None else min(self.longest, context - len(ids))
        if room < 1:
            raise TutelageError(f"{self.name}: that has {len(ids)} tokens, and the model reads {context}: ask shorter")
        text = self._generate(ids, room, show)
        self.turns = [*turns, Message("assistant", text)]
        return text

    def _encode(self, turns: Sequence[Message]) -> list[int]:
        try:
            return self.template.encode_prompt(turns)
        except TutelageError:  # a template that shows earlier turns otherwise than they were written
            return self.template.tokenizer(self.template.render(turns, True), add_special_tokens=False)["input_ids"]

    def _generate(self, ids: Sequence[int], room: int, show: Callable[[str], None]) -> str:
        prompt = torch.tensor([list(ids)], device=self.model.device)
        streamer = _Streamer(lambda new: show(plain(self.template.decode(new))))
        sampling: dict[str, Any] = {"do_sample": False}
        if self.settings.temperature > 0:
            sampling = {"do_sample": True, "temperature": self.settings.temperature, "top_k": 0, "top_p": 1.0}
        ends = list(self.template.end_of_turn_ids)
        torch.manual_seed(self.settings.seed)
        with torch.no_grad():
            self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=room,
                eos_token_id=ends,
                pad_token_id=ends[0],
                streamer=streamer,
                **sampling,
            )
        self.cut = 0 if streamer.ids and streamer.ids[-1] in ends else len(streamer.ids)
        return plain(self.template.decode(streamer.ids)).strip()


@dataclass
class _Streamer:
    """What `generate` gives its tokens to: the prompt's first, then one new one at a time."""

    show: Callable[[list[int]], None]
    ids: list[int] = field(default_factory=list)
    prompt_seen: bool = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.ids += value.flatten().tolist()
            self.show(self.ids)
        self.prompt_seen = True

    def end(self) -> None:
        """Nothing is left to show."""


def plain(text: str) -> str:
    """Text without control characters, with which a model could steer the terminal."""
    return "".join(one for one in text if one in "\n\t" or one.isprintable())


def chat(speakers: Sequence[Speaker], system: str = "", alone: bool = False, console: Console | None = None) -> None:
    """Read questions from standard input until it ends or /quit, and print every model's answers. `alone`: each
    question is a conversation of its own, for models that never saw a second one.

    In a terminal the answers appear as they are written; Ctrl-C stops an answer, and at the prompt ends the chat. Where
    standard input is no terminal, each of its lines is a question.
    """
    console = console or Console(highlight=False)
    if sys.stdin is None:
        raise TutelageError("standard input is closed: give questions by a pipe or a terminal")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text
    asking = sys.stdin.isatty()
    for speaker in speakers:
        speaker.begin(system)
    if asking:
        console.print(Text(f"{' and '.join(one.name for one in speakers)}. {HELP}", "dim"))
        if alone:
            console.print(Text(ALONE, "dim"))
    for line in _lines(console, asking):
        command, _, rest = line.partition(" ")
        if command in ("/quit", "/exit"):
            break
        if command in ("/reset", "/system"):
            system = rest.strip() if command == "/system" else system
            for speaker in speakers:
                speaker.begin(system)
        elif command == "/keep":
            alone = False
        elif command.startswith("/") and command[1:].isalpha():
            console.print(Text(HELP, "dim"))
        else:
            if alone:
                for speaker in speakers:
                    speaker.begin(system)
            _answer(speakers, line, console)


def _lines(console: Console, asking: bool) -> Iterator[str]:
    """The questions and commands that the user writes, without empty ones."""
    while True:
        try:
            line = console.input(Text("you  ", "bold green")) if asking else sys.stdin.readline()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print()
            raise
        if not asking and not line:
            return
        if line.strip():
            yield line.strip()
        elif not asking:
            console.print()  # as many lines out as in


def _answer(speakers: Sequence[Speaker], question: str, console: Console) -> None:
    """Let all speakers answer, and show it; an answer that is stopped or refused is not part of the conversation."""
    names, before = [one.name for one in speakers], [one.turns for one in speakers]
    texts = ["…" for _ in speakers]
    live = Live(_view(names, texts, console), console=console, auto_refresh=False) if console.is_terminal else None
    try:
        with live or nullcontext():
            for place, one in enumerate(speakers):

                def show(text: str, place: int = place) -> None:
                    texts[place] = text
                    if live is not None:
                        live.update(_view(names, texts, console), refresh=True)

                show(one.answer(question, show) or "(an empty answer)")
    except (KeyboardInterrupt, TutelageError) as error:
        console.print(Text(str(error) or "stopped", "dim"))
        for one, turns in zip(speakers, before, strict=True):
            one.turns = turns
        if isinstance(error, Terminated) or (isinstance(error, KeyboardInterrupt) and not sys.stdin.isatty()):
            raise  # there is nobody who would ask something else
    else:
        if live is None:
            heads = [f"{name}: " if len(names) > 1 else "" for name in names]
            console.file.write("".join(f"{head}{text}\n" for head, text in zip(heads, texts, strict=True)))
            console.file.flush()
        for one in speakers:
            if one.cut:
                note = f"{one.name} did not end its answer, which was cut at {one.cut} tokens: {_CUT}"
                if live is None:
                    print(note, file=sys.stderr)
                else:
                    console.print(Text(note, "dim"))
    if live is not None:
        console.print()


def _view(names: Sequence[str], texts: Sequence[str], console: Console) -> Table | Group:
    """The answers so far: two in columns where the terminal is wide enough, else below each other."""
    heads = [Text(name, f"bold {color}", overflow="fold") for name, color in zip(names, _COLORS, strict=False)]
    bodies = [Text(text, overflow="fold") for text in texts]
    if len(names) < 2 or console.width < SIDE_BY_SIDE:
        return Group(*(part for pair in zip(heads, bodies, strict=True) for part in pair))
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in names:
        table.add_column(ratio=1)
    table.add_row(*heads)
    table.add_row(*bodies)
    return table
