"""Measurements, each as a ratio within one run: machines are noisy, ratios hold."""
