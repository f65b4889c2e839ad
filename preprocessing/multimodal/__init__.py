"""Text with images."""
