"""Modules and losses that two systems or more share."""
