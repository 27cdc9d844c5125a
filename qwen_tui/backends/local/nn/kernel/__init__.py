"""Our own linear layers in C: weights in 4 or 8 bits, multiplied as integers without unpacking.

Law: with no library, or one that fails its self-test, torch's kernels are used instead.
"""
