"""What runs: Ray actors, Ray Data stages and the local cluster. Never imports `serve`."""
