"""Slow, literal references, written from the papers' equations and used only by tests.

Nothing here imports the package under test. Weights may be NumPy arrays or torch tensors: only
indexing, `+`, `*` and `@` are applied to them, so torch's autograd gives the reference gradients.
"""
