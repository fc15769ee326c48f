"""The tools of paper section 8: calculator, equation solver, search, text-to-image."""
