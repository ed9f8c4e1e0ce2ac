"""Figures, HTML pages and videos."""
