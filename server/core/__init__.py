"""What a caller may do. The only way in for the dialects."""
