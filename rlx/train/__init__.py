"""Drivers: the same agent fused on one chip, pipelined over device groups, or offline."""
