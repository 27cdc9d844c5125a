"""The terminal: set up, driven safely, and restored in every case."""
