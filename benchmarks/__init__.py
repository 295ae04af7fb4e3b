"""Benchmarks: each measures evalib and what its users would pick instead, in turn, in one run.

    python -m benchmarks.input      augmented training batches
    python -m benchmarks.train      the training loop
    python -m benchmarks.explain    class activation maps
    python -m benchmarks.shapes     maps on synthetic images, beside masks and maps of nothing

Machines are noisy: what counts are the medians, and the ratios of two things measured in the same run.
"""
