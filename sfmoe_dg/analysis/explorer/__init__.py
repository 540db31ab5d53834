"""The explorer of the HTML report: predictions, routing and attention on single images."""
