"""What the benchmarks of serving share: an open-loop client, contenders on cores of their own, noise, intervals."""
