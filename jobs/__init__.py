"""What you submit: one module per stage of the road, `python -m jobs.<name>`."""
