"""Polars with one thread: small tables gain nothing, and a busy machine makes the threads wait."""

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")
