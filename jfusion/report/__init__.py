"""Figures of results, and recordings of sampling."""
