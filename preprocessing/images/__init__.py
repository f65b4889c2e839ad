"""Image converters."""
