"""How good the answers are, on pictures whose labels are known; and how fast."""
