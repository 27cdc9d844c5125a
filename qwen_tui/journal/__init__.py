"""The one record format: entry ⇄ flat dict ⇄ one line of JSON (session file, `--json`, replay).

Law: a line read back gives the entry that was written, exact bytes included, without a vocabulary;
reading hostile bytes never raises, it says why; what this version does not know is kept.
"""

from __future__ import annotations

# Written beyond the format's named keys and kinds, as it allows:
# - kind `prefs`: `values`, what the interface keeps with the session; a name's last value wins;
# - `as` in `move` and `del`: new · undo · redo, where that cannot be seen from the place;
# - `lens` in `tok`: bytes per token, when a record has several;
# - `spell` in `tok` and `score`: {"id": text | [base64]} of alternatives not spelled before by this
#   writer;
# - `share` in `tok`: a probability per token, where a sampler steered by it (`Token.share`);
# - `schedule` in `end`: what `gen.schedule` is filled from;
# - `count` in `end`: its number of tokens, which is `n` when printed; in a file the stamp has `n`.
# A person's text without a tokenizer has `ids` null: its tokens are then `word_tokens(text)`.
from qwen_tui.journal.decode import MAX_DEPTH, MAX_LINE, Read, RecordReader, Stamp, read
from qwen_tui.journal.encode import (
    FORMAT,
    MAX_ID,
    VERSION,
    Record,
    environment_id,
    ids_bytes,
    ids_sha256,
    line,
    record,
    seal,
    utf8,
    word_tokens,
)
from qwen_tui.journal.scribe import Scribe

__all__ = [
    "FORMAT",
    "MAX_DEPTH",
    "MAX_ID",
    "MAX_LINE",
    "VERSION",
    "Read",
    "Record",
    "RecordReader",
    "Scribe",
    "Stamp",
    "environment_id",
    "ids_bytes",
    "ids_sha256",
    "line",
    "read",
    "record",
    "seal",
    "utf8",
    "word_tokens",
]
