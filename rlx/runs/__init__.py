"""Runs in folders: training, resuming, checkpoints, metrics and summaries."""
