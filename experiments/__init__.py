"""Scripts: `python -m experiments.<name> --help` from the repository's root."""
