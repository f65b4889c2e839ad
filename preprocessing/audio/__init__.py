"""Audio converters."""
