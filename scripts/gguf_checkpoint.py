"""Write a Qwen2 checkpoint as GGUF files for llama.cpp, without its tokenizer, for measuring speed.

Needs `gguf` and `llama-cpp-python`. First a bf16 file, then one for each quantisation, made by
llama.cpp itself.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import torch
from safetensors import safe_open

PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
ENDS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
QUANTS = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}


def renamed(name: str) -> str:
    """llama.cpp's name of a published tensor."""
    if name in ENDS:
        return ENDS[name]
    _, _, layer, part = name.split(".", 3)
    module, _, what = part.rpartition(".")
    return f"blk.{layer}.{PARTS[module]}.{what}"


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor by llama.cpp's name."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                yield renamed(name), opened.get_tensor(name)


def write_bf16(folder: Path, file: Path) -> None:
    """The checkpoint as it is: matrices in bf16, vectors in float32."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(str(file), "qwen2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    listed = [(name, tensor.shape, tensor.dim()) for name, tensor in tensors(folder)]
    for name, shape, dim in listed:
        kind = gguf.GGMLQuantizationType.BF16 if dim > 1 else gguf.GGMLQuantizationType.F32
        count = int(np.prod(shape))
        stored = (*shape[:-1], shape[-1] * 2) if dim > 1 else shape
        writer.add_tensor_info(
            name,
            stored,
            np.dtype(np.uint8 if dim > 1 else np.float32),
            count * (2 if dim > 1 else 4),
            raw_dtype=kind,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in tensors(folder):
        if tensor.dim() > 1:
            data = tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
        else:
            data = tensor.float().numpy()
        writer.write_tensor_data(data)
    writer.close()


def quantise(source: Path, file: Path, kind: str, threads: int) -> None:
    """What `llama-quantize` does."""
    wanted = llama_cpp.llama_model_quantize_default_params()
    wanted.ftype = QUANTS[kind]
    wanted.nthread = threads
    code = llama_cpp.llama_model_quantize(
        str(source).encode(), str(file).encode(), ctypes.byref(wanted)
    )
    if code:
        raise SystemExit(f"llama.cpp could not write {file} ({code})")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path, help="where the GGUF files go")
    parser.add_argument("--kinds", nargs="*", default=["Q4_0"], choices=QUANTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="keep the bf16 file")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    plain = chosen.folder / f"{chosen.model.name}-BF16.gguf"
    if not plain.exists():
        write_bf16(chosen.model, plain)
    for kind in chosen.kinds:
        quantise(plain, chosen.folder / f"{chosen.model.name}-{kind}.gguf", kind, chosen.threads)
    if not chosen.keep:
        plain.unlink()


if __name__ == "__main__":
    main()
