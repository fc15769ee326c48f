"""Evaluation: one module per table or figure of the paper's sections 6, 7.2 and 8.3."""
