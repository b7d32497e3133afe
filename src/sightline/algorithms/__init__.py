"""One small file per algorithm: a frozen dataclass that is its config, its documentation and its callable."""
