"""Requests to the model hub, through huggingface_hub's own session (proxies, token, user agent).

Law: every failure is one line with what to do and an exit code; only this module imports the
library.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from qwen_tui.hub import snapshots
from qwen_tui.hub.catalog import KNOWN
from qwen_tui.hub.hub_cache import COMMIT, is_wanted
from qwen_tui.hub.weight_files import UNSAFE
from qwen_tui.types import NO_INPUT, NO_PERMISSION, TEMPORARY, UNAVAILABLE, USAGE, Trouble

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
TIMEOUT: Final = 20.0
_ETAG: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Read once, when huggingface_hub is imported: no telemetry, no look for updates, no bars of its
# own.
_QUIET: Final = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of the repository: its name, size in bytes, and the hub's name for its content."""

    name: str
    size: int
    etag: str


class Hub:
    """The requests of one download, with huggingface_hub's session (proxies, token, user agent)."""

    def __init__(self, name: str, env: Mapping[str, str]) -> None:
        for variable, value in _QUIET.items():
            os.environ.setdefault(variable, value)
        self.name = name
        self.endpoint = (env.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        hub = importlib.import_module("huggingface_hub")
        self._hub: Any = hub
        self._errors: Any = importlib.import_module("huggingface_hub.errors")
        self._tools: Any = importlib.import_module("huggingface_hub.utils")
        self._tools.logging.set_verbosity_error()
        # The HTTP library's name changed between its major versions; its base error is this one's
        # parent.
        self._http_error: type[Exception] = self._errors.HTTPError
        self._resolve = hub.hf_hub_url

    def listing(self, revision: str) -> tuple[str, tuple[RemoteFile, ...]]:
        """The commit that a revision names now, and the files to download, small ones first."""
        api = self._hub.HfApi(endpoint=self.endpoint)
        with self.troubles():
            info = api.model_info(
                self.name, revision=revision, files_metadata=True, timeout=TIMEOUT
            )
        commit = str(info.sha or "")
        if not COMMIT.fullmatch(commit):
            raise Trouble(f"{self.endpoint} names no commit for {self.name}", code=UNAVAILABLE)
        listed = [_listed(each) for each in info.siblings or []]
        every = [each.name for each in listed]
        files = [each for each in listed if is_wanted(each.name, every)]
        if not any(each.name.endswith(".safetensors") for each in files):
            unsafe = [each for each in every if each.endswith((*UNSAFE, ".gguf"))]
            only = f" (only {unsafe[0]})" if unsafe else ""
            raise Trouble(f"{self.name} holds no safetensors weights{only}", code=NO_INPUT)
        odd = [each.name for each in files if not _ETAG.fullmatch(each.etag) or each.size < 0]
        if odd:
            raise Trouble(f"{self.endpoint} states no hash for {odd[0]}", code=UNAVAILABLE)
        return commit, tuple(sorted(files, key=lambda each: (each.size, each.name)))

    @contextmanager
    def body(self, file: str, commit: str, start: int) -> Iterator[Any]:
        """The response that streams a file from byte `start` on; from 0 when its status is 200."""
        url = self._resolve(self.name, file, revision=commit, endpoint=self.endpoint)
        headers = self._tools.build_hf_headers(library_name="qwen-tui")
        headers["Accept-Encoding"] = "identity"
        if start:
            headers["Range"] = f"bytes={start}-"
        session = self._hub.get_session()
        with session.stream(
            "GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True
        ) as response:
            self._tools.hf_raise_for_status(response)
            yield response

    @contextmanager
    def troubles(self) -> Iterator[None]:
        """A context that turns errors of the hub and the network into Trouble."""
        try:
            yield
        except (self._http_error, self._errors.OfflineModeIsEnabled) as error:
            raise self.trouble(error) from None
        except self._errors.HFValidationError:
            raise Trouble(f"{self.name!r} is no hub id", code=USAGE) from None

    def is_transient(self, error: Exception) -> bool:
        """Whether the same request may succeed if repeated: no answer, or an interrupted one."""
        return isinstance(error, self._http_error) and getattr(error, "response", None) is None

    @property
    def http_error(self) -> type[Exception]:
        """The base class of the errors that a request raises."""
        return self._http_error

    def trouble(self, error: Exception) -> Trouble:
        """The error as one line: what happened, and what to do."""
        response = getattr(error, "response", None)
        if response is None:
            reason = str(error).partition("\n")[0][:200] or type(error).__name__
            return Trouble(
                f"{self.endpoint} cannot be reached: {reason}",
                hint="check the network, a proxy, or HF_ENDPOINT; what was fetched stays",
                code=UNAVAILABLE,
            )
        status = int(response.status_code)
        said = response.headers.get("X-Error-Code", "")
        if status == 404 and said == "RevisionNotFound":
            return Trouble(f"{self.name} has no such revision", code=NO_INPUT)
        if said == "RepoNotFound" or status == 404:
            return self._unknown()
        if status == 401 and said != "GatedRepo" and self._hub.get_token():
            where = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the token that is saved here"
            return Trouble(
                f"the hub does not accept {where}: it is wrong or has expired (HTTP 401)",
                hint="a public model needs none: unset it (or: hf auth logout), or set a new one",
                code=NO_PERMISSION,
            )
        if status in (401, 403):
            return Trouble(
                f"{self.name} is gated or private, and this token may not read it (HTTP {status})",
                hint=f"accept its terms at {self.endpoint}/{self.name}, then set HF_TOKEN",
                code=NO_PERMISSION,
            )
        if status == 429:
            after = response.headers.get("Retry-After", "")
            when = f" in {after} s" if after.isdigit() else " later"
            return Trouble(
                "the hub takes no more requests just now (HTTP 429)",
                hint=f"try again{when}; a token (HF_TOKEN) raises the limit",
                code=TEMPORARY,
            )
        return Trouble(
            f"{self.endpoint} answered with HTTP {status}",
            hint="try again later; what was fetched stays",
            code=UNAVAILABLE,
        )

    def _unknown(self) -> Trouble:
        near = snapshots.nearest(self.name, list(KNOWN))
        meant = f"; did you mean {near}?" if near and near != self.name else ""
        return Trouble(
            f"the hub has no model {self.name}{meant}",
            hint="if it is private, set HF_TOKEN to a token that may read it",
            code=NO_INPUT,
        )


def _listed(sibling: Any) -> RemoteFile:
    large = sibling.lfs
    digest = (large.get("sha256") if isinstance(large, dict) else large.sha256) if large else None
    size = sibling.size if isinstance(sibling.size, int) else -1
    return RemoteFile(str(sibling.rfilename), size, str(digest or sibling.blob_id or ""))
