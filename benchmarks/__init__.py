"""Measurements that are run by hand; see the line on them in README.md."""
