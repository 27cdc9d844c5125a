"""Sessions: branching text, what generations do to it, and the files that remember it."""
