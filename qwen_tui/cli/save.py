"""Where `--save` puts a completion: nowhere, into a new session, or as a new root of an existing
one.

Law: nothing is written before weights are loaded, and nothing is reported as saved before it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qwen_tui import __version__
from qwen_tui.session import library
from qwen_tui.session.opening import OpenSession, new_store, open_session
from qwen_tui.session.session import Session
from qwen_tui.session.store import Store
from qwen_tui.types import IO_ERROR, NO_INPUT, TEMPORARY, Entry, Trouble

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab

APP = f"qwen-tui {__version__}"


class Recording:
    """The session of one completion: its entries go to `sink`, and after `begin` into a file too.

    `name` None saves nothing; "" makes a session without a title; otherwise it is the SESSION to
    continue, or the title of a new one.
    """

    def __init__(
        self, name: str | None, vocab: Vocab | None, sink: Callable[[Entry], None]
    ) -> None:
        self._name = name
        self._sink = sink
        self._waiting: list[Entry] = []
        self._store: Store | None = None
        self._known = _known(name, vocab) if name else None
        if self._known is None:
            self.session = Session.new(title=name or "", app=APP, vocab=vocab)
            for entry in self.session.entries:
                sink(entry)
        else:
            self.session = self._known.session
            self.session.go(None)
        self.session.sink = self._take

    def _take(self, entry: Entry) -> None:
        # Saved before it is printed: a reader that left must not cost the session a token.
        if self._store is not None:
            self._store.put(entry)
        elif self._known is not None:
            self._waiting.append(entry)
        self._sink(entry)

    def begin(self) -> None:
        """From now on save every entry, beginning with those so far."""
        if self._known is not None:
            self._store = self._known.store
            for entry in self._waiting:
                assert self._store is not None
                self._store.put(entry)
        elif self._name is not None:
            self._store = new_store(self.session)
            self.session.sink = self._take

    def close(self) -> str:
        """Sync and close the file; returns its path, "" if there is none. Trouble 74 if that
        failed.
        """
        store, self._store = self._store, None
        if store is None:
            if self._known is not None:
                self._known.close()
            return ""
        if not store.close(timeout=10.0):
            raise Trouble(
                f"the session could not be saved: {store.state.reason or 'the disk is too slow'}",
                code=IO_ERROR,
            )
        return str(store.path)


def _known(name: str, vocab: Vocab | None) -> OpenSession | None:
    """The existing session of that name, open for writing; None if there is none."""
    try:
        path = library.resolve(name)
    except Trouble as trouble:
        if trouble.code != NO_INPUT or os.sep in name:
            raise
        return None
    loaded = open_session(Path(path), vocab=vocab)
    if loaded.store is None:
        loaded.close()
        raise Trouble(f"{name} cannot be added to: {loaded.read_only}", code=TEMPORARY)
    return loaded
