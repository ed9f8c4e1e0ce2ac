"""Reads run folders: comparisons, differences, reports and recorded episodes of a policy."""
