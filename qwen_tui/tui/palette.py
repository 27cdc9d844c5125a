"""The command palette: finds actions by name, by help text, and by synonyms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

WORDS: Final[Mapping[str, str]] = {
    "generate": "complete generate go on write run",
    "continue_line": "heal newline line end trim trailing",
    "stop": "cancel abort",
    "copy_or_stop": "clipboard",
    "accept": "take keep",
    "accept_word": "take keep",
    "regenerate": "regenerate retry reroll sibling branch",
    "several": "branches alternatives samples many",
    "undo": "back revert",
    "redo": "forward",
    "sibling_next": "branch alternative tab",
    "sibling_previous": "branch alternative tab",
    "parent": "branch back up",
    "child": "branch forward down",
    "branches": "history tree roads fork",
    "inspect": "alternatives logprobs probability inspector candidates",
    "heat": "colors heat probability logprobs",
    "dials": "controls settings temperature top-k top-p min-p penalty repetition max tokens stop "
    "strings logit bias",
    "more_samplers": "dry xtc mirostat adaptive-p top-n-sigma tfs tail-free top-a top-h epsilon "
    "eta smoothing quadratic dynamic temperature repeat ngram",
    "neutralise": "off reset temperature raw logit bias",
    "next_preset": "profile creative precise",
    "fix_seed": "random reproduce",
    "shorten": "truncate context window",
    "new": "document create",
    "sessions": "history trash restore delete load",
    "save_as": "export write file",
    "save_text_as": "export write file",
    "fork_session": "copy duplicate branch",
    "save_elsewhere": "folder disk full",
    "normalise": "unicode normalize",
    "rename": "name",
    "find": "search",
    "edit_outside": "external vim nano emacs code",
    "models": "checkpoint load download weights folder",
    "chat": "instruct conversation assistant turns",
    "take_back_message": "earlier turn previous correct change chat",
    "system_message": "prompt instruction role persona chat",
    "next_pane": "focus window panel",
    "inline": "layout ghost",
    "theme": "colors dark light",
    "help": "keys shortcuts bindings",
    "quit": "exit leave close",
}
"""Synonyms under which an action is found, by its id."""


@dataclass(frozen=True, slots=True)
class PaletteCommand:
    """One entry; `words` are searched but not shown."""

    name: str
    help: str
    run: Callable[[], None]
    words: str = ""


class HasCommands(Protocol):
    """The app whose palette it is."""

    def commands(self) -> Iterable[PaletteCommand]:
        """The actions that work now."""


def score(command: PaletteCommand, query: str) -> float:
    """How well a command matches a query, 0 … 1: every word of the query must begin a word of the
    name, the help or the synonyms; the name counts most.
    """
    sought = query.casefold().split()
    total = 0.0
    for word in sought:
        places = ((command.name, 1.0), (command.words, 0.6), (command.help, 0.4))
        total += max(
            (value for text, value in places if f" {word}" in f" {text.casefold()}"), default=-99.0
        )
    return max(0.0, total / len(sought)) if sought else 0.0


class Commands(Provider):
    """The provider of commands for Textual's palette."""

    def _all(self) -> Iterable[PaletteCommand]:
        return cast(HasCommands, self.app).commands()

    async def discover(self) -> Hits:
        """All commands, before a person types."""
        for each in self._all():
            yield DiscoveryHit(each.name, each.run, help=each.help)

    async def search(self, query: str) -> Hits:
        """Commands that match the query by their words, else by letters of their name. If some
        names have all words of a longer query, only those.
        """
        matcher = self.matcher(query)
        found = [
            (score(each, query) or matcher.match(each.name) * 0.2, each) for each in self._all()
        ]
        least = 1.0 if " " in query.strip() and any(rank == 1 for rank, _ in found) else 0.0
        for rank, each in found:
            if rank > 0 and rank >= least:
                shown = matcher.highlight(each.name)
                yield Hit(rank, shown, each.run, text=each.name, help=each.help)
