"""A package, so that its test files can have the same names as those in tests/models."""
