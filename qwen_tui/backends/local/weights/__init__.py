"""From files to layers: published checkpoints, packed weights, transformers' loader."""
