"""What talks: the chat service and the offline teacher over HTTP. Never imports `actors`."""
