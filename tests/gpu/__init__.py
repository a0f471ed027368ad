"""What only a GPU can show: `python -m tests.gpu` runs it all and installs nothing; elsewhere it is skipped."""
