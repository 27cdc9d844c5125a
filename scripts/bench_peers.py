"""The programs that qwen-tui is measured against, each behind the same few questions.

Every contender loads the same checkpoint (llama.cpp a GGUF file made from it) and answers with
tokens per second and seconds, counted from its own token times.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BenchProtocol, Final

import torch

from qwen_tui.backends.local.benchmark import workloads
from qwen_tui.backends.local.memory import anonymous_bytes
from qwen_tui.backends.local.nn import bitsandbytes
from qwen_tui.backends.local.weights import transformers_loader
from qwen_tui.types import Backend, Sampling

RAW: Final = Sampling(seed=1)
"""A fresh user's own sampling: temperature 1 and min-p 0.05, with no bound on the candidates."""
KINDS: Final = {"greedy": workloads.GREEDY, "sampled": workloads.SAMPLED, "raw": RAW}


class Contender(BenchProtocol):
    """Something that generates. `load_s` ends when it was loaded, `ready_s` with its first token;
    `own_bytes` is the memory of its own that loading took.
    """

    name: str
    load_s: float
    ready_s: float
    own_bytes: int

    def decode(self, kind: str, ids: Sequence[int], tokens: int, seed: int) -> float:
        """Tokens per second after the first, sampling as `KINDS[kind]`."""
        ...

    def first(self, ids: Sequence[int]) -> float:
        """Seconds to the first token of a prompt it has not seen."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


def rate(times: Sequence[float]) -> float:
    """Tokens per second from the times at which tokens were there."""
    return (len(times) - 1) / (times[-1] - times[0])


@dataclass
class Ours:
    """qwen-tui through its backend's door."""

    subject: workloads.Subject
    load_s: float
    ready_s: float
    own_bytes: int = 0
    name: str = "qwen-tui"

    def decode(self, kind: str, ids: Sequence[int], tokens: int, seed: int) -> float:
        """As `Contender.decode`."""
        values: dict[str, Any] = {"sampling": replace(KINDS[kind], seed=seed)}
        return self.subject.run(ids, max_tokens=tokens, **values)[0].tok_s

    def first(self, ids: Sequence[int]) -> float:
        """As `Contender.first`."""
        return self.subject.run(ids, sampling=workloads.GREEDY, max_tokens=1)[0].ttft_s

    @property
    def backend(self) -> Backend:
        """What is behind the door."""
        return self.subject.backend

    def close(self) -> None:
        """As `Contender.close`."""
        self.backend.close()


class Transformers:
    """`generate` of transformers: dynamic cache, or static and compiled; NF4 or int8 by
    bitsandbytes.
    """

    def __init__(
        self, folder: Path, *, dtype: str, quant: str, device: str, static: bool = False
    ) -> None:
        transformers_loader.quiet()
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        if quant != "none":
            bitsandbytes.load()
        import transformers
        import transformers.models.qwen2.modeling_qwen2  # imports are not loading

        transformers.logging.set_verbosity_error()
        self.name = "transformers" + {"none": "", "nf4": " + bitsandbytes NF4"}.get(
            quant, " + bitsandbytes int8"
        )
        self.name += ", static + compile" if static else ""
        self._static = static
        before, began = anonymous_bytes(), time.perf_counter()
        self._network = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=transformers_loader.DTYPES[dtype],
            device_map={"": device},
            quantization_config=_bitsandbytes(
                transformers, quant, transformers_loader.DTYPES[dtype]
            ),
            attn_implementation="sdpa",
            local_files_only=True,
        ).eval()
        self._network.generation_config.eos_token_id = None
        self._device = device
        self.load_s = time.perf_counter() - began
        self._generate([1, 2, 3, 4], 1, workloads.GREEDY)
        self.ready_s = time.perf_counter() - began
        self.own_bytes = anonymous_bytes() - before

    def decode(self, kind: str, ids: Sequence[int], tokens: int, seed: int) -> float:
        """As `Contender.decode`."""
        torch.manual_seed(seed)
        return rate(self._generate(ids, tokens, KINDS[kind]))

    def first(self, ids: Sequence[int]) -> float:
        """As `Contender.first`."""
        began = time.perf_counter()
        return self._generate(ids, 1, workloads.GREEDY)[0] - began

    @torch.inference_mode()
    def _generate(self, ids: Sequence[int], tokens: int, sampling: Sampling) -> list[float]:
        times: list[float] = []
        goes_on = torch.zeros(1, dtype=torch.bool, device=self._device)

        def note(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            times.append(time.perf_counter())
            return goes_on

        from transformers import StoppingCriteriaList

        batch = torch.tensor([list(ids)], device=self._device)
        self._network.generate(
            input_ids=batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=tokens,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([note]),
            **_sampling(sampling),
            **({"cache_implementation": "static"} if self._static else {}),
        )
        return times

    def close(self) -> None:
        """As `Contender.close`."""
        self._network = None
        gc.collect()


def _bitsandbytes(transformers: Any, quant: str, dtype: torch.dtype) -> Any:
    if quant == "nf4":
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    return transformers.BitsAndBytesConfig(load_in_8bit=True) if quant == "int8" else None


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """The arguments of `generate` for the same sampling."""
    if sampling.temperature == 0.0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        **({"min_p": sampling.min_p} if sampling.min_p else {}),
    }


class LlamaCpp:
    """llama.cpp through llama-cpp-python."""

    def __init__(self, file: Path, *, threads: int, context: int, gpu: bool) -> None:
        import llama_cpp

        self.name = f"llama.cpp {file.stem.rpartition('-')[2]}"
        before, began = anonymous_bytes(), time.perf_counter()
        self._llama = llama_cpp.Llama(
            str(file),
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            n_batch=512,
            n_gpu_layers=-1 if gpu else 0,
            verbose=False,
        )
        self.load_s = time.perf_counter() - began
        self._times([1, 2, 3, 4], 1, workloads.GREEDY)
        self.ready_s = time.perf_counter() - began
        self.own_bytes = anonymous_bytes() - before

    def decode(self, kind: str, ids: Sequence[int], tokens: int, seed: int) -> float:
        """As `Contender.decode`."""
        self._llama.set_seed(seed)
        return rate(self._times(ids, tokens, KINDS[kind]))

    def first(self, ids: Sequence[int]) -> float:
        """As `Contender.first`."""
        began = time.perf_counter()
        return self._times(ids, 1, workloads.GREEDY)[0] - began

    def _times(self, ids: Sequence[int], tokens: int, sampling: Sampling) -> list[float]:
        self._llama.reset()
        stream: Iterator[int] = self._llama.generate(
            list(ids),
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            temp=sampling.temperature,
            repeat_penalty=1.0,
            reset=True,
        )
        times = []
        for _ in stream:
            times.append(time.perf_counter())
            if len(times) == tokens:
                break
        return times

    def close(self) -> None:
        """As `Contender.close`."""
        self._llama.close()


def has_llama() -> bool:
    """Whether llama-cpp-python is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def peers(
    folder: Path,
    *,
    dtype: str,
    quant: str,
    device: str,
    threads: int,
    context: int,
    gguf: Sequence[Path],
    plain: bool,
    transformers: bool = True,
) -> Iterator[Contender]:
    """Load the peers of a kind of weights, one after the other; `plain` adds unquantised
    transformers to a quantised run.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if quant != "none" and transformers:
        # bitsandbytes' four bits are NF4.
        yield Transformers(folder, dtype=dtype, quant=quant.replace("int4", "nf4"), device=device)
    if (quant == "none" or plain) and transformers:
        yield Transformers(folder, dtype=dtype, quant="none", device=device)
        if device.startswith("cuda"):
            yield Transformers(folder, dtype=dtype, quant="none", device=device, static=True)
    for file in gguf:
        if has_llama():
            yield LlamaCpp(file, threads=threads, context=context, gpu=device.startswith("cuda"))
