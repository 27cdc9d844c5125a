"""What `qwen-tui bench` measures: memory bandwidth, workloads, speed, and the quality of
quantisation.
"""
