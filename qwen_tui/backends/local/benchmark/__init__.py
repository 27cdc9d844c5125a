"""What `qwen-tui bench` measures: bandwidth, workloads, speed, and the quality of quantisation."""
