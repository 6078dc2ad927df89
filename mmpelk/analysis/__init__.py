"""Reproduce the paper's evidence: complexity, receptive fields, resized kernels, kernel forms on digits, benchmarks, and plots."""
