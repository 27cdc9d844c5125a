"""The interface: the one room where textual may be imported."""
