"""Mutants: faults put into copies of the code on purpose, each of which a test must notice."""
