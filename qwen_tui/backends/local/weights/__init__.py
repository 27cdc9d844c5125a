"""Loads weights into layers: published checkpoints, packed files, and transformers' loader."""
