"""Errors for invalid input, and shims for other libraries."""
