"""What `import rlx` offers to Python: training, results, sweeps."""
