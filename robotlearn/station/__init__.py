"""What stands at a robot workstation: its file, whether that is true, and its processes."""
