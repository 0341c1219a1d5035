"""What only the paper knows: its classifiers."""
