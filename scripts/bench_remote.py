"""What our client costs beside a bare httpx loop: time to first token, and rate at many siblings.

    python scripts/bench_remote.py [--url http://host:8000] [--siblings 8] [--tokens 64]

Both ask the same server for the same completions, in turn, in one run. Without `--url` that is a
stub in a process of its own, which speaks as vLLM does at a fixed pace.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

from qwen_tui import paths
from qwen_tui.backends.remote.backend import Remote, opened
from qwen_tui.settings import load
from qwen_tui.types import Emitted, Request, Sampling, Token
from qwen_tui.vocab import Vocab

ALTERNATIVES = 10


def stub(port: Any, pace: float) -> None:
    """A vLLM of nothing: every sibling says a token every `pace` seconds."""
    vocab = Vocab.load(paths.demo_dir())
    table = {f"token_id:{id}": -float(id) for id in range(ALTERNATIVES)}

    def event(index: int, at: int, finish: str | None) -> bytes:
        id = 100 + (index * 31 + at) % 1000
        logprobs = {"tokens": [f"token_id:{id}"], "token_logprobs": [-1.0], "top_logprobs": [table]}
        choice = {"index": index, "text": "x", "logprobs": logprobs, "finish_reason": finish}
        data = {"object": "text_completion", "choices": [choice | {"token_ids": [id]}]}
        return b"data: " + json.dumps(data).encode() + b"\n\n"

    class Speaker(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

        def answer(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            row = {"id": "demo", "owned_by": "vllm", "root": "demo", "max_model_len": 4096}
            self.answer({"data": [row]} if self.path == "/v1/models" else {"version": "stub"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/tokenize":
                self.answer({"tokens": [token.id for token in vocab.encode(body["prompt"])]})
            elif body.get("stream"):
                self.stream(body)
            else:
                some = {"logprobs": {"top_logprobs": [table]}, "prompt_logprobs": []}
                self.answer({"choices": [some]})

        def stream(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            count, last = body.get("n", 1), body["max_tokens"] - 1
            began = time.perf_counter()
            for at in range(last + 1):
                time.sleep(max(0.0, began + at * pace - time.perf_counter()))
                for index in range(count):
                    data = event(index, at, "length" if at == last else None)
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            done = b"data: [DONE]\n\n"
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Speaker)
    port.value = server.server_address[1]
    server.serve_forever()


def ours(remote: Remote, request: Request) -> tuple[float, float]:
    """Seconds to the first token and to the last through the backend."""
    began = time.perf_counter()
    first = last = 0.0
    for each in remote.stream(request, threading.Event()):
        if isinstance(each, Emitted):
            last = time.perf_counter() - began
            first = first or last
    return first, last


def bare(client: httpx2.Client, body: dict[str, Any]) -> tuple[float, float]:
    """The same through a loop that only reads lines and parses them."""
    began = time.perf_counter()
    first = last = 0.0
    with client.stream("POST", "/v1/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {") and any(
                choice["token_ids"] for choice in json.loads(line[6:])["choices"]
            ):
                last = time.perf_counter() - began
                first = first or last
    return first, last


def measured(url: str, model: str, options: argparse.Namespace) -> tuple[float, float]:
    """What we add to the first token (seconds, the median of pairs), and our rate by the bare
    loop's.
    """
    remote = opened(load({"engine": url} | ({"model": model} if model else {})))
    vocab = Vocab.load(paths.demo_dir())
    prompt = vocab.encode("Once upon a time") if model else (Token(0, b""),) * 8
    sampling = Sampling(min_p=0.0, seed=1)
    count = options.siblings
    request = Request(prompt, sampling, options.tokens, (), ALTERNATIVES, count, ignore_eos=True)
    (call,) = remote._dialect.calls(request)
    client = httpx2.Client(base_url=url, verify=False, trust_env=False, timeout=600)
    ways: list[Callable[[], tuple[float, float]]] = [
        lambda: ours(remote, request),
        lambda: bare(client, dict(call.body)),
    ]
    for each in ways:
        each()
    added, ratios = [], []
    for number in range(options.rounds):
        order = (0, 1) if number % 2 else (1, 0)
        times = {which: ways[which]() for which in order}
        added.append(times[0][0] - times[1][0])
        ratios.append((times[1][1] - times[1][0]) / (times[0][1] - times[0][0]))
    remote.close()
    client.close()
    return statistics.median(added), statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="")
    parser.add_argument("--siblings", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    os.environ["QWEN_TUI_HOME"] = tempfile.mkdtemp()
    paces = {"50 tokens/s a sibling": 0.02, "200 tokens/s a sibling": 0.005}
    for name, pace in {options.url: 0.0}.items() if options.url else paces.items():
        url, process = options.url, None
        if not url:
            port = multiprocessing.Value("i", 0)
            process = multiprocessing.Process(target=stub, args=(port, pace), daemon=True)
            process.start()
            while not port.value:
                time.sleep(0.01)
            url = f"http://127.0.0.1:{port.value}"
        added, ratio = measured(url, "" if options.url else "demo", options)
        print(
            f"{name}: {options.siblings} siblings, first token {added * 1000:+.2f} ms, "
            f"stream rate {ratio:.1%} of the bare loop's"
        )
        if process is not None:
            process.terminate()


if __name__ == "__main__":
    main()
