"""Synthetic data sets whose right answer is known: exact (closed form) and fundus (looks like the real thing)."""
