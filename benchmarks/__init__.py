"""Benchmarks: every figure is a ratio to a baseline that runs interleaved in the same process tree. See README.md."""
