"""HTTP to one server: connections that any thread can cut, JSON answers, streams of events.

Law: a request goes only to the endpoint's own scheme, host and port; redirects are reported, not
followed. This is the only module that uses HTTP.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

import httpx2

from qwen_tui.backends.remote import faults
from qwen_tui.backends.remote.faults import Fault
from qwen_tui.backends.remote.keys import Key
from qwen_tui.settings import Endpoint
from qwen_tui.types import GENERIC, Trouble

CONNECT_S: Final = 10.0
ANSWER_S: Final = 120.0
"""Most seconds a short question may take."""
ASK_CANCEL_S: Final = 0.02
"""Seconds between two looks at whether somebody cancelled."""
MOST_BODY: Final = 64 << 20
MOST_EVENT: Final = 16 << 20
_END: Final = "[DONE]"

# Their DEBUG lines hold request headers, and so the key.
for _name in ("httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Link:
    """One connection, kept alive between requests, for one thread at a time; `cut` is for any."""

    def __init__(self, client: httpx2.Client, label: str, key: Key, stall: float) -> None:
        self._client = client
        self._label = label
        self._key = key
        self._stall = stall
        self._socket: socket.socket | None = None
        self.broken = False
        self.given = False
        """Whether it was returned and nobody reads it."""

    def cut(self) -> None:
        """Abort reading or writing at once; the server sees the connection close."""
        self.broken = True
        self._shut()

    def close(self) -> None:
        """Close the connection."""
        self.broken = True
        self._client.close()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON answer to a short question; Fault for every failure."""
        timeout = httpx2.Timeout(ANSWER_S, connect=CONNECT_S)
        with self._sent(method, path, body, timeout) as response:
            return self._json(self._body(response))

    def objects(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The objects of an answer as they arrive, whatever its framing: events, lines, or one
        object. Fault for every failure, including an error object in the stream.
        """
        stall = self._stall or None
        timeout = httpx2.Timeout(connect=CONNECT_S, read=stall, write=stall, pool=None)
        with self._sent("POST", path, body, timeout) as response:
            for text in self._texts(response):
                data = self._json(text)
                if not isinstance(data, dict):
                    raise Fault(f"{self._label} sends something that is no object: {text[:80]!r}")
                fault = faults.in_stream(self._label, data)
                if fault is not None:
                    raise self._hidden(fault)
                yield data

    # -- within ------------------------------------------------------------------------------------

    def _sent(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout: httpx2.Timeout
    ) -> _Answer:
        request = self._client.build_request(
            method,
            path,
            json=body,
            headers=self._key.headers(),
            timeout=timeout,
            extensions={"trace": self._note},
        )
        return _Answer(self, request, timeout.read or 0.0)

    def _note(self, name: str, info: Mapping[str, Any]) -> None:
        """Record the socket as soon as it exists, so that it can be cut."""
        if name.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self.broken:
                self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                # Not the method of a TLS socket, which would unwrap it first.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _texts(self, response: httpx2.Response) -> Iterator[str]:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("application/x-ndjson", "application/jsonlines"):
            yield from filter(None, map(str.strip, response.iter_lines()))
        elif kind == "application/json":
            yield self._body(response).decode("utf-8", "replace")
        else:
            done = False
            for event in httpx2.EventSource(response, MOST_EVENT):
                done = done or event.data.strip() == _END
                if event.data and not done:  # read on: only a whole answer lets its link live on
                    yield event.data

    def _body(self, response: httpx2.Response) -> bytes:
        """The whole body, up to a limit."""
        parts, size = [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MOST_BODY:
                raise Fault(f"the answer of {self._label} is larger than {MOST_BODY >> 20} MiB")
        return b"".join(parts)

    def _json(self, data: str | bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            text = data if isinstance(data, str) else data.decode("utf-8", "replace")
            shown = self._key.hidden(text)[:80]
            said = f"{self._label} sends something that is no JSON: {shown!r}"
            raise Fault(said, status=200) from None

    def _hidden(self, fault: Fault) -> Fault:
        """The fault with the key removed, in case the server repeated it."""
        return Fault(
            self._key.hidden(fault.message),
            hint=self._key.hidden(fault.hint),
            code=fault.code,
            reason=fault.reason,
            status=fault.status,
        )


class _Answer:
    """A request under way: the response within `with`, every failure as a Fault."""

    def __init__(self, link: Link, request: httpx2.Request, stall: float) -> None:
        self._link = link
        self._request = request
        self._stall = stall
        self._response: httpx2.Response | None = None

    def __enter__(self) -> httpx2.Response:
        link = self._link
        try:
            self._response = response = link._client.send(self._request, stream=True)
            if response.status_code != 200:
                body = link._body(response)
                response.close()
                raise link._hidden(
                    faults.of_status(link._label, response.status_code, response.headers, body)
                )
        except httpx2.HTTPError as error:
            link.broken = True
            raise faults.of_transport(link._label, error, self._stall) from None
        return response

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        link, response = self._link, self._response
        assert response is not None
        if not response.is_closed and not response.is_stream_consumed:
            link.broken = True  # bytes of this answer may still come
        response.close()
        if isinstance(error, httpx2.HTTPError):
            link.broken = True
            raise faults.of_transport(link._label, error, self._stall) from None


class Client:
    """The connections to one server. Any thread may take one, and returns it when done."""

    def __init__(self, endpoint: Endpoint, key: Key, *, stall: float = 0.0) -> None:
        self.endpoint = endpoint
        self.stall = stall
        self._key = key
        self._verify = _trusted(endpoint)
        self._idle: list[Link] = []
        self._leaving: set[Link] = set()
        self._lock = threading.Lock()
        self._closed = False

    def take(self) -> Link:
        """An idle connection, or a new one; an abandoned one that has not ended is cut."""
        with self._lock:
            for link in self._leaving:
                link.cut()
            self._leaving.clear()
            while self._idle:
                link = self._idle.pop()
                if not link.broken:
                    link.given = False
                    return link
        client = httpx2.Client(
            base_url=self.endpoint.url,
            verify=self._verify,
            trust_env=not self.endpoint.private,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=1),
        )
        return Link(client, self.endpoint.label, self._key, self.stall)

    def give(self, link: Link) -> None:
        """Return a connection."""
        with self._lock:
            self._leaving.discard(link)
            link.given = True
            if not link.broken and not self._closed:
                self._idle.append(link)
                return
        link.close()

    def leave(self, link: Link) -> None:
        """Abandon an answer that is nearly read: its reader may finish it, so that the connection
        can be reused.
        """
        with self._lock:
            if not link.given:
                self._leaving.add(link)

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        cancel: threading.Event | None = None,
    ) -> Any:
        """The JSON answer to a short question; Fault for every failure, Trouble when cancelled."""
        link = self.take()
        answer: SimpleQueue[Callable[[], Any]] = SimpleQueue()

        def work() -> None:
            result = _raising(Fault("the question was not asked", code=GENERIC))
            try:
                result = _returning(link.ask(method, path, body))
            except Fault as fault:
                result = _raising(fault)
            finally:
                self.give(link)
                answer.put(result)

        threading.Thread(target=work, name="server", daemon=True).start()
        while True:
            try:
                return answer.get(timeout=ASK_CANCEL_S)()
            except Empty:
                if cancel is not None and cancel.is_set():
                    link.cut()
                    raise Trouble("opening the server was cancelled") from None

    def close(self) -> None:
        """Close every idle connection; others close when they are returned."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for link in self._leaving:
                link.cut()
        for link in idle:
            link.close()


def _returning(value: Any) -> Callable[[], Any]:
    return lambda: value


def _raising(fault: Fault) -> Callable[[], Any]:
    def act() -> Any:
        raise fault

    return act


def _trusted(endpoint: Endpoint) -> Any:
    """The trusted certificates; loading them takes 20 ms, so only for TLS."""
    if endpoint.origin[0] != "https":
        return False
    context = httpx2.create_ssl_context()
    if endpoint.ca_file:
        try:
            context.load_verify_locations(endpoint.ca_file)
        except OSError as error:
            raise Trouble(f"{endpoint.ca_file} holds no certificates: {error}") from None
    return context
