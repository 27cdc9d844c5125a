"""Our own linear layers in C: weights in 4 and 8 bits, multiplied as integers where they lie.

Law: with no library, or one that fails its self-test, nothing here is used and torch's kernels are.
"""
