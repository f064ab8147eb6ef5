"""Tests of compactrec: `reference` is the slow truth, `cases` the table of contract tests."""
