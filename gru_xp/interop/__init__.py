"""Weights from other frameworks, and to them."""
