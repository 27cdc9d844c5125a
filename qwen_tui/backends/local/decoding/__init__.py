"""From logits to text: decoding loop, sampler chain, logprobs, stop strings, speculation."""
