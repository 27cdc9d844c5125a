"""The terminal: taken, driven safely, and given back whatever happens."""
