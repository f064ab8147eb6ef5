"""Tiny cases of every method and what the slow references say about them; see tests/cases.py."""
