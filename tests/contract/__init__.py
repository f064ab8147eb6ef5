"""What every method must do, run over the case table of tests/cases.py."""
