"""Whole models side by side: one small file for each says what its file holds and which cases are run."""
