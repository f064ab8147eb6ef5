"""What one method or one module does: golden values, regressions, error messages."""
