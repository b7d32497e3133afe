"""Where a judge's replies come from: an endpoint, a local model, a file."""
