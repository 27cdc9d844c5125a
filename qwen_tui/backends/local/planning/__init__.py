"""Which device, dtype and quantisation a checkpoint runs in, and why, before it is loaded."""
