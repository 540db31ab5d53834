"""The explorer of the HTML page: what the model did with single images."""
