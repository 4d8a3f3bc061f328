"""Looking at runs: one page per run that opens anywhere, and several runs side by side."""
