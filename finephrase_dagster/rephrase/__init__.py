"""Rephrasing: documents through prompts and a generator into datasets that are counted and whole."""
